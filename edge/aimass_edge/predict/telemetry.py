"""From a window of telemetry to the model's inputs, and from its outputs to a prediction.

Pure: no queue, no session, no clock. What a window means is in the release's contract.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadTensorError, ModelError, ModelLoadFailedError
from aimass_shared.manifest import AlarmRule, Contract, Manifest, SliceEntry
from aimass_shared.messages import Prediction
from aimass_shared.windows import Window

Floats = NDArray[np.float32]
Outputs = Mapping[str, NDArray[Any]]
FORECAST = "forecast"
VALUES, MASK = "values", "mask"


class Selection(msgspec.Struct, frozen=True):
    """Where a contract's sensors are in a row of telemetry; -1 for those that are not there."""

    columns: tuple[int, ...]

    @property
    def missing(self) -> int:
        """How many sensors of the contract the telemetry does not have."""
        return self.columns.count(-1)


class ModelInput(msgspec.Struct, frozen=True, eq=False):
    """One window as the model takes it: `feeds` of batch 1, `coverage` over its own sensors.

    `values` and `mask` `[W, S]` are there even where the model takes no mask.
    """

    feeds: dict[str, Floats]
    coverage: float
    values: Floats
    mask: Floats

    def newest(self, rows: int) -> NDArray[np.float64]:
        """The last rows of the window `[rows, S]`, not a number where nothing was measured."""
        known = self.mask[-rows:] > 0
        return np.where(known, self.values[-rows:], np.nan).astype(np.float64)


class AlarmState:
    """Counts windows in a row over the threshold; a window without a score leaves the count.

    Without a rule there is never an alarm. The threshold is the rule's, until the site has its own.
    """

    def __init__(self, rule: AlarmRule | None) -> None:
        self._rule = rule
        self.threshold = 0.0 if rule is None else rule.threshold
        self._in_a_row = 0

    def step(self, score: float, threshold: float | None = None) -> bool:
        """Take in the score of the next window; whether the alarm holds now.

        A window that something else judged brings a threshold of its own.
        """
        if self._rule is None:
            return False
        over = score > (self.threshold if threshold is None else threshold)
        self._in_a_row = self._in_a_row + 1 if over else 0
        return self._in_a_row >= self._rule.consecutive


def check_fed(contract: Contract) -> None:
    """Refuse a contract with sensors that no window of telemetry could ever be fed to.

    Raises:
        ModelLoadFailedError: the detail says why.
    """
    if not contract.telemetry:
        return
    names = {spec.name for spec in contract.inputs}
    if not {VALUES} <= names <= {VALUES, MASK}:
        raise ModelLoadFailedError(
            f"{contract.model} has sensors, but takes {', '.join(sorted(names)) or 'nothing'}:"
            f" telemetry is fed as {VALUES} and {MASK}"
        )
    if min(contract.window, contract.stride, contract.step_ms) < 1:
        raise ModelLoadFailedError(
            f"{contract.model} has sensors, and windows of {contract.window} rows every"
            f" {contract.stride}, {contract.step_ms} ms apart: all three must be at least 1"
        )


def select(contract: Contract, sensors: tuple[str, ...]) -> Selection:
    """Find a contract's sensors among the channels of a row, by name."""
    where = {name: column for column, name in enumerate(sensors)}
    return Selection(tuple(where.get(sensor.name, -1) for sensor in contract.sensors))


def model_input(contract: Contract, window: Window, selection: Selection) -> ModelInput:
    """Cut the model's sensors out of a window; what is missing or not finite gets mask 0.

    Raises:
        BadTensorError: the window has another length than the contract's.
    """
    if window.values.shape[0] != contract.window:
        raise BadTensorError(
            f"window has {window.values.shape[0]} rows, {contract.model} takes {contract.window};"
            " cut windows to the length in the release's contract"
        )
    columns = np.array(selection.columns)
    there = columns >= 0
    values: Floats = np.zeros((1, contract.window, len(columns)), np.float32)
    mask: Floats = np.zeros_like(values)
    values[0][:, there] = window.values[:, columns[there]]
    mask[0][:, there] = window.mask[:, columns[there]]
    # The graph multiplies values by the mask, and a not-a-number survives a product with zero.
    unusable = (mask == 0) | ~np.isfinite(values)
    values[unusable] = 0
    mask[unusable] = 0
    feeds = {VALUES: values, MASK: mask}
    taken = {spec.name: feeds[spec.name] for spec in contract.inputs}
    return ModelInput(taken, float(mask.mean()), values[0], mask[0])


def read_outputs(contract: Contract) -> tuple[str, ...]:
    """Names of the outputs that `judge` reads: none where no telemetry is fed."""
    if not contract.telemetry:
        return ()
    rule = contract.alarm
    judged = () if rule is None else (rule.score, rule.contribution)
    return (*judged, FORECAST) if contract.task == "forecast" else judged


class Judged(msgspec.Struct, frozen=True):
    """What the outputs say about one window. A model without an alarm rule has the score 0.

    `contributions` are of all sensors, in the order of the contract.
    """

    score: float = 0.0
    top_sensors: tuple[str, ...] = ()
    forecast: tuple[float, ...] = ()
    contributions: tuple[float, ...] = ()


def judge(contract: Contract, outputs: Outputs) -> Judged:
    """Read score, blame and forecast of the one window in a batch.

    Raises:
        ModelError: the score is not finite.
    """
    judged = Judged() if contract.alarm is None else _scored(contract, contract.alarm, outputs)
    if contract.task != "forecast":
        return judged
    forecast = tuple(float(value) for value in np.nan_to_num(outputs[FORECAST][0, 0]))
    return msgspec.structs.replace(judged, forecast=forecast)


def _scored(contract: Contract, rule: AlarmRule, outputs: Outputs) -> Judged:
    score = float(outputs[rule.score][0])
    if not np.isfinite(score):
        raise ModelError(f"{contract.model} gave the score {score}; roll back to another release")
    each = np.nan_to_num(outputs[rule.contribution][0])
    return blamed(contract, rule, score, each=each)


def blamed(
    contract: Contract, rule: AlarmRule, score: float, *, each: NDArray[np.floating]
) -> Judged:
    """A score with every sensor's part `[S]`, and the sensors that have the largest."""
    worst = np.argsort(-each, kind="stable")[: rule.top]
    return Judged(
        score,
        tuple(contract.sensors[index].name for index in worst),
        contributions=tuple(float(value) for value in each),
    )


class Explanation(msgspec.Struct, frozen=True):
    """Why the newest window was scored as it was.

    Attributes:
        window_end: time of its last row.
        contributions: of every sensor, by name; those of our recipes are not negative and add up to
            the score.
    """

    window_end: int
    score: float
    threshold: float
    contributions: dict[str, float]


def explanation(
    contract: Contract, window: Window, judged: Judged, *, threshold: float
) -> Explanation | None:
    """Every sensor's part in a score; None where the model gives no scores."""
    if contract.alarm is None:
        return None
    named = zip(contract.sensors, judged.contributions, strict=True)
    contributions = {sensor.name: value for sensor, value in named}
    return Explanation(window.end_ms, judged.score, threshold, contributions)


class Source(msgspec.Struct, frozen=True):
    """What made a prediction: a slice of a release."""

    manifest: Manifest
    entry: SliceEntry


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent knows about a window beside the model's outputs."""

    threshold: float
    alarm: bool
    coverage: float
    service_ms: float


def prediction(source: Source, window: Window, judged: Judged, *, outcome: Outcome) -> Prediction:
    """Put together what is published and sent to the cloud."""
    return Prediction(
        model=source.manifest.model,
        release=source.manifest.release,
        slice=source.entry.spec.name,
        sequence=window.sequence,
        window_end=window.end_ms,
        score=judged.score,
        threshold=outcome.threshold,
        alarm=outcome.alarm,
        top_sensors=judged.top_sensors,
        coverage=outcome.coverage,
        place="local",
        service_ms=outcome.service_ms,
        forecast=judged.forecast,
        contributions=tuple(sorted(judged.contributions, reverse=True)[: len(judged.top_sensors)]),
    )
