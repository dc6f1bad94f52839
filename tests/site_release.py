"""A release whose model is a monitor of a fleet, as a real ONNX file, and sites that differ.

The graph computes what `aimass_cloud.models.monitor` does, written down as products of matrices: a
device's tests shall not wait for torch. Its forecast is the newest row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aimass_edge.history import History
from aimass_edge.predict import Predictor, SiteStatus
from aimass_shared.fleet import FILE, Fleet, pack
from aimass_shared.manifest import (
    AlarmRule,
    Contract,
    FileRef,
    Manifest,
    Sensor,
    SliceEntry,
    TensorSpec,
)
from aimass_shared.messages import Prediction
from aimass_shared.moments import Moments, moments
from aimass_shared.monitoring import CHARTS, LONGEST, SiteMonitor
from aimass_shared.slices import SliceCost, SliceSpec
from aimass_shared.var import centred, solve
from aimass_shared.windows import Row, WindowBuffer

SENSORS: Final = ("flow", "level", "heat", "speed")
LAGS: Final = 3
WINDOW: Final = LAGS + LONGEST
STEP_MS: Final = 1000
RIDGE: Final = 20.0
DYNAMICS: Final = 0.6 * np.eye(4) + 0.25 * np.eye(4, k=1)
SHAPE: Final = (-1, WINDOW, 4)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Site:
    """A plant: its operating point, how loud its noise is, and how its sensors move together."""

    level: tuple[float, float, float, float]
    noise: float
    mixed: float

    def rows(self, count: int, seed: int) -> Floats:
        """Normal operation `[count, 4]`."""
        random = np.random.default_rng(seed)
        mixing = self.noise * (np.eye(4) + self.mixed * np.eye(4, k=-1))
        rows = np.zeros((count + 50, 4))
        for at in range(1, len(rows)):
            rows[at] = rows[at - 1] @ DYNAMICS + random.normal(0, 1, 4) @ mixing
        return np.asarray(rows[50:] + np.array(self.level), np.float64)


FLEET: Final = tuple(
    Site((10.0 + at, 200.0 + 3 * at, 5.0, 50.0 - at), 0.5 + 0.1 * at, 0.2) for at in range(6)
)
QUIET: Final = Site((14.0, 190.0, 6.0, 46.0), 0.2, 0.6)
LOUD: Final = Site((7.0, 215.0, 4.0, 55.0), 1.6, 0.0)


class Release(NamedTuple):
    manifest: Manifest
    entry: SliceEntry
    directory: Path


def moments_of(rows: Floats) -> Moments:
    values = rows.astype(np.float32)
    return moments([(values, np.ones_like(values))], sensors=SENSORS, lags=LAGS)


def shared_monitor() -> SiteMonitor:
    """The one that the fleet's rows give, as a release has it."""
    total = Moments.empty(SENSORS, LAGS)
    for seed, site in enumerate(FLEET):
        total = total.add(moments_of(site.rows(400, seed)))
    plain = SiteMonitor.uncalibrated(solve(total, RIDGE))
    return plain.calibrated(plain.calibration(FLEET[0].rows(400, 90)))


def fleet(weight: float = 300.0) -> Fleet:
    total = Moments.empty(SENSORS, LAGS)
    for seed, site in enumerate(FLEET):
        total = total.add(centred(moments_of(site.rows(400, seed))))
    return Fleet(total, weight, RIDGE)


def contract() -> Contract:
    return Contract(
        model="plant",
        sensors=tuple(Sensor(name, "bar", "continuous") for name in SENSORS),
        step_ms=STEP_MS,
        window=WINDOW,
        horizon=1,
        inputs=(TensorSpec("values", "FP32", SHAPE), TensorSpec("mask", "FP32", SHAPE)),
        outputs=(
            TensorSpec("forecast", "FP32", (-1, 1, 4)),
            TensorSpec("score", "FP32", (-1,)),
            TensorSpec("contribution", "FP32", (-1, 4)),
        ),
        alarm=AlarmRule("score", 1.0, "contribution", consecutive=1, top=2),
        min_coverage=0.5,
    )


def write(folder: Path, name: str = "r1", packed: bytes | None = None) -> Release:
    """The files of a release; `packed` are other bytes for its fleet, b"" for none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph(shared_monitor()).SerializeToString())
    files: tuple[FileRef, ...] = ()
    raw = pack(fleet()) if packed is None else packed
    if raw:
        (folder / FILE).write_bytes(raw)
        files = (FileRef("fleet", FILE, "0" * 64, len(raw)),)
    return _release(folder, name, files)


def found(folder: Path, name: str = "r1") -> Release:
    """A release that `write` wrote."""
    raw = (folder / FILE).read_bytes()
    return _release(folder, name, (FileRef("fleet", FILE, "0" * 64, len(raw)),))


def _release(folder: Path, name: str, files: tuple[FileRef, ...]) -> Release:
    entry = SliceEntry(SliceSpec(1.0, "fp32"), SliceCost(508, 1.0, 0.1, 0.5), files, 1e-4)
    return Release(Manifest(name, "plant", contract(), (entry,), 0), entry, folder)


class Device:
    """One life of the parts that a row of telemetry runs through.

    Rows are numbered from `clock` on; without a history they are recorded nowhere.
    """

    def __init__(self, predictor: Predictor, history: History | None, clock: int = 0) -> None:
        self.predictor = predictor
        self._history, self._clock = history, clock
        self._windows = WindowBuffer(WINDOW, 1, step_ms=STEP_MS)

    async def see(self, rows: Floats) -> list[Prediction]:
        """Take rows, NaN where nothing was measured."""
        predictions = []
        for row in rows:
            self._clock += 1
            mask = np.isfinite(row).astype(np.float32)
            one = Row(self._clock * STEP_MS, np.nan_to_num(row).astype(np.float32), mask)
            if self._history is not None:
                await self._history.append([one])
            window = self._windows.add(one)
            if window is not None:
                predictions.append(await self.predictor.predict(window, SENSORS))
        return [prediction for prediction in predictions if prediction is not None]

    @property
    def status(self) -> SiteStatus:
        status = self.predictor.site_monitor()
        assert status is not None
        return status

    async def settled(self) -> SiteStatus:
        """The status once the monitor is there; its fit runs in a thread."""
        with anyio.fail_after(20):
            while self.status.state != "active":  # noqa: ASYNC110  there is no event for it
                await anyio.sleep(0.005)
        return self.status


def scores(predictions: Sequence[Prediction]) -> Floats:
    return np.array([prediction.score for prediction in predictions])


def graph(monitor: SiteMonitor) -> onnx.ModelProto:
    """The monitor of a window, as a device loads it."""
    arrays = {**_matrices(monitor), "half": np.array(0.5), "zero": np.array(0.0)}
    shapes = {
        "flat": [-1, WINDOW * 4],
        "tail": [-1, LONGEST * 4],
        "rows": [-1, LONGEST, 4],
        "charts": [-1, len(CHARTS), 4],
        "newest": [WINDOW - 1],
        "by_sensor": [2],
        "by_chart": [1],
        "from": [(WINDOW - LONGEST) * 4],
        "to": [WINDOW * 4],
    }
    constants = [
        *(numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()),
        *(numpy_helper.from_array(np.array(s, np.int64), name) for name, s in shapes.items()),
    ]
    window: list[str | int | None] = ["batch", WINDOW, 4]
    outputs: dict[str, list[str | int | None]] = {
        "forecast": ["batch", 1, 4],
        "score": ["batch"],
        "contribution": ["batch", 4],
    }
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        [_node(*line) for line in NODES],
        "plant",
        [info(name, TensorProto.FLOAT, window) for name in ("values", "mask")],
        [info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


NODES: Final[Sequence[tuple[str, str, str, dict[str, Any]]]] = (
    ("Gather", "values newest", "forecast", {"axis": 1}),
    ("Greater", "mask half", "known", {}),
    ("Sub", "values mean", "moved", {}),
    ("Div", "moved scale", "scaled", {}),
    ("Where", "known scaled zero", "z", {}),
    ("Reshape", "z flat", "z.flat", {}),
    ("Reshape", "mask flat", "mask.flat", {}),
    ("Slice", "mask.flat from to by_chart", "mask.tail", {}),
    ("MatMul", "z.flat regression", "ahead", {}),
    ("Sub", "ahead intercept", "error", {}),
    ("Mul", "error mask.tail", "residual", {}),
    ("Reshape", "residual rows", "residual.rows", {}),
    ("MatMul", "residual.rows whitening", "white.rows", {}),
    ("Reshape", "white.rows tail", "white", {}),
    ("Mul", "white white", "squared", {}),
    ("MatMul", "squared spreads", "spread", {}),
    ("MatMul", "white shifts", "mean.white", {}),
    ("Mul", "mean.white mean.white", "shift", {}),
    ("Add", "spread shift", "shares.flat", {}),
    ("Reshape", "shares.flat charts", "shares", {}),
    ("ReduceSum", "shares by_sensor", "each", {"keepdims": 1}),
    ("ReduceMax", "each", "largest", {"axes": [1], "keepdims": 1}),
    ("GreaterOrEqual", "each largest", "is_largest", {}),
    ("Where", "is_largest shares zero", "taken", {}),
    ("ReduceSum", "taken by_chart", "contribution", {"keepdims": 0}),
    ("ReduceSum", "contribution by_chart", "score", {"keepdims": 0}),
)


def _node(kind: str, inputs: str, output: str, more: dict[str, Any]) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **more)


def _matrices(monitor: SiteMonitor) -> dict[str, Floats]:
    """Constants that take a flat window to residuals, and whitened residuals to shares."""
    var, size = monitor.var, len(SENSORS)
    regression = np.zeros((WINDOW * size, LONGEST * size))
    for place in range(LONGEST):
        row, own = WINDOW - LONGEST + place, slice(place * size, (place + 1) * size)
        regression[row * size : (row + 1) * size, own] = np.eye(size)
        for lag in range(1, LAGS + 1):
            past = var.coefficients[(lag - 1) * size : lag * size]
            regression[(row - lag) * size : (row - lag + 1) * size, own] -= past
    spreads = np.zeros((LONGEST * size, len(CHARTS) * size))
    shifts = np.zeros_like(spreads)
    for at, (chart, level) in enumerate(zip(CHARTS, monitor.limits.levels, strict=True)):
        column = slice(at * size, (at + 1) * size)
        for row in range(LONGEST - chart.rows, LONGEST):
            part = np.eye(size) / (chart.rows * size * level)
            if chart.kind == "spread":
                spreads[row * size : (row + 1) * size, column] = part
            else:
                shifts[row * size : (row + 1) * size, column] = np.sqrt(part)
    return {
        "mean": var.mean,
        "scale": var.scale,
        "intercept": np.tile(var.intercept, LONGEST),
        "regression": regression,
        "whitening": monitor.whitening,
        "spreads": spreads,
        "shifts": shifts,
    }
