"""From a recipe to a trained model with its report, and from a model to its children.

Choices (steps, gate, threshold) are made on the calibration rows, figures come from the test rows.
The threads of torch are limited to one: on a busy machine two are slower, and one is repeatable.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aimass_cloud import recipes
from aimass_cloud.models import deployed as network
from aimass_cloud.models.base import VarBase
from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.deployed import Deployed
from aimass_cloud.models.forecaster import Forecaster, kind_counts
from aimass_cloud.models.graph import SensorGraph
from aimass_cloud.models.trained import ForecasterConfig, ModelInfo, TrainedModel, identify
from aimass_cloud.models.var import FLAT, Var, solve
from aimass_cloud.recipes import PlantData
from aimass_cloud.training import detection, forecasting
from aimass_cloud.training.batches import Batch, prepared
from aimass_cloud.training.trainer import Plan, Progress, Trained, Trainer
from aimass_shared.errors import BadUpdateError
from aimass_shared.manifest import Contract
from aimass_shared.moments import Moments, moments

Weights = Mapping[str, NDArray[np.float32]]
Tensors = dict[str, Tensor]


class TrainSettings(msgspec.Struct, frozen=True):
    """Sizes of the model and length of its training."""

    config: ForecasterConfig = ForecasterConfig()
    plan: Plan = Plan()


def quiet(_fraction: float, _message: str) -> None:
    """Progress that nobody watches."""


def train(
    recipe: str,
    *,
    seed: int = 0,
    base: Moments | None = None,
    progress: Progress = quiet,
    settings: TrainSettings | None = None,
) -> TrainedModel:
    """Train a recipe: VAR, graph forecaster of all widths, gate, threshold, report.

    Args:
        recipe: its name.
        seed: the same seed gives the same model.
        base: moments that sites shared; they are added to those of the recipe's own rows.
        progress: told the fraction done and what is going on.
        settings: sizes and steps, where the defaults will not do.

    Raises:
        NotFoundError: there is no such recipe.
        BadUpdateError: `base` is of other sensors or lags.
        TrainingFailedError: the rows are unusable or the error grows without end.
    """
    chosen, plan = settings or TrainSettings(), recipes.find(recipe)
    with _repeatable(seed):
        started = time.process_time()
        progress(0.0, "solving the linear base")
        data = plan.load()
        linear, rows = _linear(data, base, chosen.config.lags)
        contract = contract_for(
            plan.model,
            data.sensors,
            step_ms=plan.step_ms,
            window=plan.window,
            horizon=plan.horizon,
        )
        info = ModelInfo("", recipe, "", seed, chosen.config, contract, {}, _now_ms())
        draft = TrainedModel(info, {}, _arrays(linear))
        best = _forecaster(draft, data, chosen.plan, progress=progress)
        training = {
            "rows": rows,
            "base": "own rows" if base is None else "own rows and sites",
            "steps": best.steps,
            "steps_taken": best.taken,
            "cpu_seconds": round(time.process_time() - started, 2),
        }
        draft = TrainedModel(info, _arrays(best.weights), _arrays(linear | best.graph))
        return _finished(draft, data, training, keep_threshold=False)


def evaluate_forecast(model: TrainedModel, weights: Weights, width: float = 1.0) -> float:
    """Error of other full-width weights in a model, in squared standard deviations.

    Measured on the recipe's test rows at one width, with the model's own gate.

    Raises:
        BadUpdateError: the weights are not those of this model: names, shapes, finite numbers.
        NotFoundError: the width was not trained.
    """
    _check_weights(model, weights)
    data = recipes.find(model.info.recipe).load()
    other = TrainedModel(model.info, {**weights}, model.constants)
    with _repeatable(model.info.seed):
        return _error(other, network.deployed(other), data, width=width)


def with_weights(model: TrainedModel, weights: Weights) -> TrainedModel:
    """A child of a model: the same base, graph and threshold, other weights, a new gate and report.

    Raises:
        BadUpdateError: the weights are not those of this model: names, shapes, finite numbers.
    """
    _check_weights(model, weights)
    data = recipes.find(model.info.recipe).load()
    info = msgspec.structs.replace(model.info, parent=model.id, created=_now_ms())
    own = {name: np.array(array, np.float32) for name, array in weights.items()}
    with _repeatable(model.info.seed):
        draft = TrainedModel(info, own, dict(model.constants))
        return _finished(draft, data, model.metrics["training"], keep_threshold=True)


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """One thread and a generator of our own, and the caller's both back afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _linear(data: PlantData, base: Moments | None, lags: int) -> tuple[Tensors, int]:
    """Constants of the VAR, and how many rows it comes from."""
    rows = data.train
    total = moments([(rows, np.ones_like(rows))], sensors=data.names, lags=lags)
    total = total if base is None else total.add(base)
    return _constants(solve(total)), total.n


def _constants(var: Var) -> Tensors:
    named = {
        "base.mean": var.mean,
        "base.scale": var.scale,
        "base.intercept": var.intercept,
        "base.coefficients": var.coefficients,
        "monitor.whitening": var.whitening(),
        "monitor.deviation": np.sqrt(np.maximum(np.diag(var.covariance), FLAT)),
    }
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in named.items()}


def _forecaster(draft: TrainedModel, data: PlantData, plan: Plan, *, progress: Progress) -> Trained:
    config, contract = draft.info.config, draft.info.contract
    base = VarBase(network.tensors(draft.constants))
    train, held_back = (_batch(base, rows, contract) for rows in (data.train, data.calibration))
    forecaster = Forecaster(config, data.sensors, window=contract.window, horizon=contract.horizon)
    graph = SensorGraph(len(data.sensors), config.embedding, config.neighbours)
    trainer = Trainer(forecaster, graph, widths=config.widths, plan=plan)
    return trainer.run(train, held_back, seed=draft.info.seed, progress=progress)


def _batch(base: VarBase, rows: NDArray[np.float32], contract: Contract) -> Batch:
    return prepared(base, rows, window=contract.window, horizon=contract.horizon)


def _finished(
    draft: TrainedModel, data: PlantData, training: dict[str, Any], *, keep_threshold: bool
) -> TrainedModel:
    """The model with gate, threshold, report and id."""
    constants = draft.constants | {"gate": _gates(draft, data)}
    draft = TrainedModel(draft.info, draft.weights, constants)
    whole, contract = network.deployed(draft), draft.info.contract
    found = detection.report(whole, data, contract.window)
    level = contract.alarm.threshold if keep_threshold else found["monitor"]["threshold"]
    rule = msgspec.structs.replace(contract.alarm, threshold=level)
    info = msgspec.structs.replace(
        draft.info,
        id=identify(recipes.find(draft.info.recipe).model, draft.weights, constants),
        contract=msgspec.structs.replace(contract, alarm=rule),
        metrics=_metrics(draft, whole, data) | {"detection": found, "training": training},
    )
    return TrainedModel(info, draft.weights, constants)


def _gates(draft: TrainedModel, data: PlantData) -> NDArray[np.float32]:
    """The gate `[widths, horizon, S]`, chosen on the calibration rows."""
    contract, counts = draft.info.contract, kind_counts(data.sensors)
    whole = network.deployed(draft)
    batch = _batch(whole.base, data.calibration, contract)
    mask = torch.ones_like(batch.window)
    gates = []
    for width in draft.info.config.widths:
        with torch.no_grad():
            weights = network.weights_of(draft, width)
            linear, added = whole.correction(weights, batch.window, mask)
        gates.append(forecasting.gate(linear, added, batch.target, kinds=counts))
    return torch.stack(gates).numpy()


def _metrics(draft: TrainedModel, whole: Deployed, data: PlantData) -> dict[str, Any]:
    by_width = {
        f"{width:.2f}": _error(draft, whole, data, width=width)
        for width in draft.info.config.widths
    }
    return {
        "val_mse": by_width["1.00"],
        "val_mse_by_width": by_width,
        "baselines": forecasting.baselines(whole, data, draft.info.contract),
        "parameters": draft.parameters,
        "gate": round(float(draft.constants["gate"][0].mean()), 3),
    }


def _error(model: TrainedModel, whole: Deployed, data: PlantData, *, width: float) -> float:
    gate = network.gate_of(model, width)
    weights = network.weights_of(model, width)
    return forecasting.error(whole, weights, gate, data=data, contract=model.info.contract)


def _check_weights(model: TrainedModel, weights: Weights) -> None:
    if set(weights) != set(model.weights):
        odd = sorted(set(weights) ^ set(model.weights))
        raise BadUpdateError(f"weights of another model: {', '.join(odd)}")
    for name, array in weights.items():
        if array.shape != model.weights[name].shape:
            raise BadUpdateError(
                f"{name} must have shape {model.weights[name].shape}, got {array.shape}"
            )
        if not np.isfinite(array).all():
            raise BadUpdateError(f"{name} has numbers that are not finite")


def _arrays(named: Tensors) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.numpy() for name, tensor in sorted(named.items())}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
