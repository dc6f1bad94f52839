"""Recipe "sensor-graph": forecasts telemetry and finds faults, over a graph learned from it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud.models.base import VarBase
from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.forecaster import ForecasterConfig, kind_counts
from aimass_cloud.models.graph import SensorGraph
from aimass_cloud.models.monitor import THRESHOLD, Monitor, monitor_constants
from aimass_cloud.models.network import Batch, Network, Tensors, called, tensors
from aimass_cloud.models.samples import Arrays, Part, Samples
from aimass_cloud.models.sensors import FrozenGraph, SensorNetwork
from aimass_cloud.models.shrinkage import LAGS
from aimass_cloud.models.trained import ModelInfo, TrainedModel
from aimass_cloud.models.windows import cut, scaled_error
from aimass_cloud.recipes import detection, forecasting, tep
from aimass_cloud.recipes.plant import PlantData
from aimass_cloud.recipes.run import RunSettings, configured
from aimass_cloud.recipes.sampling import Drawn
from aimass_cloud.recipes.task import Source, Task
from aimass_shared.errors import RequestError
from aimass_shared.manifest import AlarmRule, Contract
from aimass_shared.moments import Moments, moments
from aimass_shared.var import Var, solve

WINDOW, HORIZON = tep.PLANT.window, tep.PLANT.horizon
MISSING = 0.1
GAPS_SEED = 20
SIZES: Final = {
    "tiny": ForecasterConfig(hidden=32),
    "base": ForecasterConfig(),
    "large": ForecasterConfig(hidden=256, steps=3),
    "xl": ForecasterConfig(hidden=3072, steps=3),
}

Floats = NDArray[np.float32]


class SensorTask(Task):
    """A plant with its linear base and its monitor, before the network is trained."""

    per_width = ("gate",)

    def __init__(
        self, data: PlantData, config: ForecasterConfig, *, base: Moments | None, seed: int
    ) -> None:
        """Solve the VAR of the plant's rows, and of the sites' where there are any."""
        self.config: ForecasterConfig = config
        self._data, self._seed = data, seed
        rows = data.train
        lags = max(config.lags, LAGS)
        total = moments([(rows, np.ones_like(rows))], sensors=data.names, lags=lags)
        self._rows = total if base is None else total.add(base)
        linear = solve(self._rows.shortened(config.lags))
        self._constants = constants_of(linear) | monitor_constants(self._rows, data.calibration)
        self._base = VarBase(self._constants)
        self.contract = self._contract(data)

    def _contract(self, data: PlantData) -> Contract:
        contract = contract_for(
            RECIPE.model, data.sensors, step_ms=data.step_ms, window=WINDOW, horizon=HORIZON
        )
        self._score = detection.monitor_score(self._base, Monitor(self._constants), WINDOW)
        alarm = AlarmRule(score="score", threshold=THRESHOLD, contribution="contribution")
        return msgspec.structs.replace(contract, alarm=alarm)

    def network(self) -> Network:
        """A forecaster over a graph that is yet to be learned."""
        config = self.config
        return SensorNetwork(
            config,
            self.contract,
            self._constants,
            SensorGraph(len(self._data.sensors), config.embedding, config.neighbours),
        )

    def source(self, *, batch: int, rank: int = 0, world: int = 1) -> Source:
        """Windows of the training rows, standardised, with their linear forecast."""
        return Drawn(self._batch(self._data.train), self._seed, batch, rank, world)

    def held_back(self) -> Sequence[Batch]:
        """The windows of the calibration rows."""
        return (self._batch(self._data.calibration),)

    def samples(self) -> Samples:
        """All windows of the calibration and the test rows."""
        calibration, test = (self._part(rows) for rows in (self._data.calibration, self._data.test))
        return Samples(calibration, test, self._selftest())

    def baselines(self) -> dict[str, Any]:
        """Errors of persistence, DLinear and the plain VAR."""
        return forecasting.baselines(self._base, self._data, self.contract)

    def report(self, model: TrainedModel) -> dict[str, Any]:
        """How well the monitor finds faults, beside PCA."""
        return {
            "gate": round(float(model.constants["gate"][0].mean()), 3),
            "rows": self._rows.n,
            "detection": detection.report(self._score, self._data, WINDOW),
        }

    @torch.no_grad()
    def _batch(self, rows: Floats) -> Tensors:
        values = torch.tensor(cut(rows, WINDOW + HORIZON))
        whole = self._base.standardised(values, torch.ones_like(values))
        past = whole[:, :WINDOW]
        linear = self._base(past, HORIZON)
        return {"window": past, "linear": linear, "target": whole[:, WINDOW:]}

    def _part(self, rows: Floats) -> Part:
        values = cut(rows, WINDOW + HORIZON)
        past, future = values[:, :WINDOW], values[:, WINDOW:]
        inputs = {"values": past, "mask": np.ones_like(past)}
        return Part(inputs, {"future": future, "scale": self._data.train.std(axis=0)})

    def _selftest(self) -> Arrays:
        """Windows `[4, W, S]`: normal, normal with gaps, faulty, faulty with gaps.

        Telemetry has gaps, and the mask is easily left out by mistake.
        """
        data = self._data
        fault = next(iter(data.faults.values()))[data.fault_start :]
        normal, faulty = (cut(rows[: 2 * WINDOW], WINDOW)[0] for rows in (data.calibration, fault))
        values = np.stack([normal, normal, faulty, faulty])
        mask = np.ones_like(values)
        gaps = np.random.default_rng(GAPS_SEED).random(mask[1::2].shape) < MISSING
        mask[1::2][gaps] = 0.0
        return {"values": np.where(mask > 0, values, 0.0).astype(np.float32), "mask": mask}


class SensorGraphRecipe:
    """Forecasts and finds faults."""

    name = "sensor-graph"
    model = tep.PLANT.model
    summary = "forecast sensor telemetry and find faults, over a graph learned from it"
    layout = "a table with a column for each sensor, rows in time order"
    sizes: Mapping[str, msgspec.Struct] = SIZES
    run = RunSettings()

    def open(self, run: RunSettings, base: Moments | None = None) -> Task:
        """Read the plant and solve its linear base.

        Raises:
            BadUpdateError: `base` is of other sensors or lags.
            TrainingFailedError: there are too few rows.
        """
        if run.data:
            raise RequestError("this recipe trains on the shipped plant only")
        return SensorTask(tep.load(), configured(run, SIZES), base=base, seed=run.seed)

    def module(self, info: ModelInfo, constants: Arrays) -> Network:
        """The network with its graph as constants."""
        config = msgspec.convert(info.config, ForecasterConfig)
        buffers = tensors(constants)
        with torch.device("meta"):
            return SensorNetwork(config, info.contract, buffers, FrozenGraph(buffers))

    def settle(self, model: TrainedModel) -> Arrays:
        """The gate `[widths, horizon, S]`, chosen on held-back windows."""
        part, kinds = model.samples.calibration, kind_counts(model.info.contract.sensors)
        network = self.module(model.info, model.constants)
        target = torch.tensor(part.truth["future"])
        gates = []
        for width in model.info.widths:
            arrays = tensors(model.at(width))
            closed, opened = (_forecast(network, arrays, part, share) for share in (0.0, 1.0))
            scale = arrays["base.scale"]
            linear, added = closed / scale, (opened - closed) / scale
            gates.append(forecasting.gate(linear, added, target / scale, kinds=kinds))
        return {"gate": torch.stack(gates).numpy()}

    def error(self, outputs: Arrays, truth: Arrays) -> float:
        """Mean squared error in squared standard deviations of the training rows."""
        return scaled_error(outputs["forecast"], truth["future"], truth["scale"])

    def figures(self, outputs: Arrays, truth: Arrays) -> dict[str, float]:
        """The error under the name that reports give it."""
        return {"val_mse": self.error(outputs, truth)}


RECIPE: Final = SensorGraphRecipe()


@torch.no_grad()
def _forecast(network: Network, arrays: Tensors, part: Part, share: float) -> torch.Tensor:
    """Forecasts in units of some windows, with that share of the correction."""
    inputs = [torch.tensor(part.inputs[name]) for name in ("values", "mask")]
    gate = torch.full(part.truth["future"].shape[1:], share)
    return called(network, {**arrays, "gate": gate}, inputs)[0]


def constants_of(var: Var) -> Tensors:
    """The constants of the linear base, from its VAR."""
    named = {
        "base.mean": var.mean,
        "base.scale": var.scale,
        "base.intercept": var.intercept,
        "base.coefficients": var.coefficients,
    }
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in named.items()}
