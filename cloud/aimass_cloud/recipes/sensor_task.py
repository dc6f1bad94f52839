"""Recordings of sensors or prices as a task: linear base, monitor, graph, windows, samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from aimass_cloud.datasets.runs import Rows, Run
from aimass_cloud.datasets.series import Series
from aimass_cloud.models.base import base_of
from aimass_cloud.models.contract import contract_for
from aimass_cloud.models.direct import filled
from aimass_cloud.models.fleet import (
    FEWEST_SITES,
    SitesMoments,
    moments_of_runs,
    packed_fleet,
    weight_of,
)
from aimass_cloud.models.forecaster import ForecasterConfig
from aimass_cloud.models.graph import NodeGraph, given, members
from aimass_cloud.models.monitor import monitor_constants, window_rows
from aimass_cloud.models.network import Batch, Network, Tensors
from aimass_cloud.models.samples import Arrays, Part, Samples
from aimass_cloud.models.sensors import SensorNetwork
from aimass_cloud.models.shrinkage import LAGS, SiteRows, normal_of
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.models.windows import scaled_error
from aimass_cloud.recipes import forecasting
from aimass_cloud.recipes.linear_base import RUNS, VAR, chosen_base, horizon_of, training_rows
from aimass_cloud.recipes.sampling import Drawn
from aimass_cloud.recipes.settling import candidate_errors, covered
from aimass_cloud.recipes.streaming import Streamed
from aimass_cloud.recipes.task import Source, Task
from aimass_cloud.recipes.windowing import Windows
from aimass_shared.errors import TrainingFailedError
from aimass_shared.manifest import Role
from aimass_shared.moments import Moments
from aimass_shared.var import Var, solve

MISSING: Final = 0.1
GAPS_SEED: Final = 20
MOST_WINDOWS: Final = 1000
MOST_BYTES: Final = 8 << 20
"""Of the windows of each part that travel with a model."""
MOST_RELATED: Final = 2000
WATCHED: Final = 256
"""Windows of a batch that training looks at."""
MOST_SUMS: Final = 2e8
"""Numbers of training windows, times their length, that DLinear is fitted from."""


@dataclass(frozen=True)
class Naming:
    """What a recipe calls things.

    Attributes:
        model: name of the models.
        monitored: whether they find faults. trend: whether they give the change as a share.
    """

    model: str
    monitored: bool
    trend: bool = False


class SensorTask(Task):
    """Recordings with their linear base and monitor, before the network is trained."""

    def __init__(
        self,
        data: Series,
        config: ForecasterConfig,
        naming: Naming,
        *,
        seed: int,
        base: Moments | None = None,
    ) -> None:
        """Solve what is solved in closed form, of these rows and of the sites' where there are any.

        Raises:
            BadUpdateError: `base` is of other sensors or lags.
            DataError, TrainingFailedError: there are too few rows.
        """
        self._data, self._seed = data, seed
        self._rows, var = _solved(data, config.lags, base)
        self._linear = chosen_base(data, config, var, complete=self._rows.n)
        self._constants = dict(self._linear.constants)
        if naming.monitored and var is not None:
            self._constants |= _monitor(self._rows, data)
        if self._monitored:
            self.assets = _fleet(self._rows, data)
        self._base = base_of(self._constants)
        rows = self._linear.rows
        self.config: ForecasterConfig = msgspec.structs.replace(
            config, recent=min(config.recent, rows), entities=_entities(data)
        )
        self.contract = contract_for(
            naming.model,
            data.sensors,
            step_ms=data.step_ms,
            window=max(rows, window_rows()) if self._monitored else rows,
            horizon=horizon_of(data, config),
            monitored=self._monitored,
            quantiles=config.quantiles,
            trend=naming.trend,
        )
        if self._monitored and var is not None:
            normal = normal_of(var, _longest(data).rows)
            self.contract = msgspec.structs.replace(self.contract, normal=normal)
        self._length = self.contract.window + self.contract.horizon
        self._scale = self._linear.units.counted.astype(np.float32)
        relative = self._base.scale / torch.from_numpy(self._scale)
        self._weight = relative.square() / relative.square().mean()
        settled = {"loudness": bool(self._graph().relations), "reach": config.quantiles}
        self.per_width = ("gate", *(name for name, is_there in settled.items() if is_there))

    @property
    def _monitored(self) -> bool:
        return "monitor.limits" in self._constants

    def network(self) -> Network:
        """A forecaster over a graph that is yet to be learned."""
        graph = self._graph()
        if graph.learned and self.config.start == "data":
            graph.start(self._related(graph.nodes))
        return SensorNetwork(self.config, self.contract, self._constants, graph=graph)

    @torch.no_grad()
    def _related(self, nodes: int) -> NDArray[np.float64]:
        """How what the linear base misses at a node goes with how others moved before `[N, N]`."""
        runs = [Run("", rows) for rows in islice(training_rows(self._data), RUNS)]
        values = Windows.of(runs, self._length).spread(MOST_RELATED)
        batch = self._batch(values)
        missed = (batch["target"] - batch["linear"]).mean(dim=1)
        moved = batch["window"][:, -1] - batch["window"][:, -self.config.recent :].mean(dim=1)
        sides = [
            (side - side.mean(dim=0)) / side.std(dim=0).clamp(min=1e-6) for side in (missed, moved)
        ]
        sensors = len(self._data.sensors)
        related = np.zeros((nodes, nodes))
        related[:sensors, :sensors] = (sides[0].T @ sides[1]).numpy() / len(values)
        np.fill_diagonal(related, 0.0)
        return related

    def _graph(self) -> NodeGraph:
        config, data = self.config, self._data
        nodes = len(data.sensors) + len(config.entities)
        fixed = members([sensor.entity for sensor in data.sensors]) if config.entities else {}
        if data.graph is not None and config.graph in {"given", "both"}:
            fixed |= given(data.graph, nodes)
        return NodeGraph(
            nodes,
            embedding=config.embedding,
            neighbours=config.neighbours,
            learned=nodes > 1 and config.graph in {"learned", "both"},
            fixed=fixed if config.graph != "none" else {},
        )

    def source(self, *, batch: int, rank: int = 0, world: int = 1) -> Source:
        """Windows of the training rows, standardised, with their linear forecast."""
        shards, seed, length = self._data.shards, self._seed, self._length
        if shards is not None:
            return Streamed(
                shards,
                length,
                stride=1,
                seed=seed,
                batch=batch,
                made=lambda values, _: self._batch(values),
                rank=rank,
                world=world,
            )
        windows = Windows.of(self._data.train, length)
        return Drawn(
            {"number": torch.arange(len(windows))},
            seed,
            batch,
            rank,
            world,
            transform=lambda drawn, _: self._batch(windows.cut(drawn["number"].numpy())),
        )

    def held_back(self) -> Sequence[Batch]:
        """Windows of the calibration rows, in batches of one size."""
        windows = Windows.of(self._data.calibration, self._length).spread(MOST_WINDOWS)
        parts = np.array_split(windows, -(-len(windows) // WATCHED))
        return tuple(self._batch(part) for part in parts)

    def samples(self) -> Samples:
        """Windows of the calibration and the test rows, all of them or some that lie evenly."""
        calibration, test = (self._part(runs) for runs in (self._data.calibration, self._tests))
        return Samples(calibration, test, self._selftest())

    def baselines(self) -> dict[str, Any]:
        """Errors of persistence, DLinear and the linear base, in training deviations."""
        part = self.samples().test
        mean, scale = self._base.mean.numpy(), part.truth["scale"]
        past = np.where(part.inputs["mask"] > 0, (part.inputs["values"] - mean) / scale, 0.0)
        future = (part.truth["future"] - mean) / scale
        found = forecasting.plain_errors(self._some_training(), past, future)
        values, mask = (torch.tensor(part.inputs[name]) for name in ("values", "mask"))
        linear = self._base(self._base.standardised(values, mask), mask, self.contract.horizon)
        units = (linear * self._base.scale + self._base.mean).numpy()
        name = VAR if self._linear.name == VAR else "linear"
        return found | {name: scaled_error(units, part.truth["future"], scale)}

    def report(self, model: TrainedModel) -> dict[str, Any]:
        """What was tried on held-back windows, what ships, and how well the band covers."""
        return {
            "rows": self._rows.n,
            "linear": self._linear.name,
            "candidates": {**self._linear.errors, **candidate_errors(model)},
            "gate": round(float(model.constants["gate"][0].mean()), 3),
            **covered(model),
        }

    @torch.no_grad()
    def _batch(self, values: Rows) -> Tensors:
        whole = torch.from_numpy(values)
        known = whole.isfinite().to(torch.float32)
        rows = self._base.standardised(whole, known)
        window, horizon = self.contract.window, self.contract.horizon
        past, mask = rows[:, :window], known[:, :window]
        return {
            "window": past,
            "mask": mask,
            "linear": self._base(past, mask, horizon),
            "target": rows[:, window:],
            "weight": known[:, window:] * self._weight,
        }

    @property
    def _tests(self) -> Sequence[Run]:
        """What figures come from; the held-back rows where there is no test, so that there are."""
        return self._data.test or self._data.calibration

    def _part(self, runs: Sequence[Run]) -> Part:
        each = self._length * len(self._data.sensors) * np.float32().nbytes
        values = Windows.of(runs, self._length).spread(
            min(MOST_WINDOWS, max(1, MOST_BYTES // each))
        )
        past, future = np.split(values, [self.contract.window], axis=1)
        return Part(_inputs(past), {"future": future, "scale": self._scale})

    def _some_training(self) -> Rows:
        """Standardised training windows without gaps, `[n, length, S]`."""
        rows = islice(training_rows(self._data), RUNS)
        units = self._linear.units
        runs = [Run("", filled(units.error_rows(each)).astype(np.float32)) for each in rows]
        each = self._length**2 * len(self._data.sensors)
        return Windows.of(runs, self._length).spread(max(2, int(MOST_SUMS / each)))

    def _selftest(self) -> Arrays:
        """Windows `[4, W, S]`: normal, normal with gaps, late or faulty, the same with gaps.

        Telemetry has gaps, and the mask is easily left out by mistake.
        """
        window, faults = self.contract.window, self._data.faults
        other = [_since_fault(faults[0])] if faults else self._tests
        first, last = (Windows.of(runs, window) for runs in (self._data.calibration, other))
        parts = [first.cut(np.array([0, 0])), last.cut(np.full(2, 0 if faults else len(last) - 1))]
        inputs = _inputs(np.concatenate(parts))
        mask = inputs["mask"]
        gaps = np.random.default_rng(GAPS_SEED).random(mask[1::2].shape) < MISSING
        mask[1::2][gaps] = 0.0
        return {
            "values": np.where(mask > 0, inputs["values"], 0.0).astype(np.float32),
            "mask": mask,
        }


def _inputs(values: Rows) -> Arrays:
    """Values and mask as a network takes them."""
    known = np.isfinite(values)
    return {
        "values": np.where(known, values, 0.0).astype(np.float32),
        "mask": known.astype(np.float32),
    }


def _solved(data: Series, lags: int, base: Moments | None) -> tuple[SitesMoments, Var | None]:
    """Moments of the training rows (and of the sites'), and their VAR if there are enough rows.

    The fleet is that of the sites, where a statistics round kept one of enough sites.
    """
    rows = moments_of_runs(training_rows(data), sensors=data.names, lags=max(lags, LAGS))
    if base is not None:
        fleet = rows
        if isinstance(base, SitesMoments) and base.sites >= FEWEST_SITES:
            fleet = base
        rows = SitesMoments.of(rows.add(base), fleet.within, fleet.sites)
    try:
        return rows, solve(rows.shortened(lags))
    except TrainingFailedError:
        return rows, None


def _fleet(rows: SitesMoments, data: Series) -> dict[Role, bytes]:
    """What a device shrinks a monitor of its own towards, as the asset of every slice."""
    held_back = {run.name: run.rows for run in data.calibration}
    sites = {
        run.name: SiteRows(run.rows, held_back[run.name], is_one_run=False)
        for run in data.train
        if run.name in held_back
    }
    packed = packed_fleet(rows.within, weight_of(sites))
    return {} if packed is None else {"fleet": packed}


def _monitor(rows: Moments, data: Series) -> Tensors:
    """The monitor, calibrated on the longest held-back run; none if that is too short."""
    try:
        return monitor_constants(rows, _longest(data).rows)
    except TrainingFailedError:
        return {}


def _longest(data: Series) -> Run:
    return max(data.calibration, key=lambda run: len(run.rows))


def _since_fault(run: Run) -> Run:
    first = 0 if run.labels is None else int(np.argmax(run.labels))
    return run.part(first, len(run.rows))


def _entities(data: Series) -> tuple[str, ...]:
    return tuple(dict.fromkeys(sensor.entity for sensor in data.sensors if sensor.entity))
