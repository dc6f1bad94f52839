"""One slice that is loaded and answers: opened and tried before it may, closed after its last run.

Opening blocks, so it happens in a worker thread; counting who uses it happens in the event loop.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from aimass_edge.config import BoardSettings
from aimass_edge.predict.drift import DriftWatch
from aimass_edge.predict.limits import Calibration, SiteLimit
from aimass_edge.predict.site import THRESHOLD, SiteWatch
from aimass_edge.predict.telemetry import (
    AlarmState,
    Explanation,
    Judged,
    ModelInput,
    Selection,
    check_fed,
    read_outputs,
    select,
)
from aimass_edge.runtime import ANY_SIZE, CodedSession, Session, coder_beside, describe
from aimass_shared.errors import AimassError, BadTensorError, ModelLoadFailedError
from aimass_shared.inference import check_inputs, example
from aimass_shared.manifest import Contract, Manifest, SliceEntry, TensorSpec

MODEL_FILE = "model.onnx"
WARM_UP_RUNS = 3
Opener = Callable[[Path, BoardSettings], Session]


class Weighed(msgspec.Struct, frozen=True):
    """A window with the threshold that it was held against, and whether the alarm holds."""

    judged: Judged
    threshold: float
    alarm: bool


class Active:
    """A loaded slice of a release, and the state that belongs to it.

    `window_ms` is what one window took at best when it was tried. `explanation` is of the newest
    window of telemetry.
    """

    def __init__(  # noqa: PLR0913  by name, and each has a default
        self,
        manifest: Manifest,
        entry: SliceEntry,
        session: Session,
        *,
        window_ms: float = math.inf,
        calibration: Calibration | None = None,
        site: SiteWatch | None = None,
    ) -> None:
        self.manifest = manifest
        self.entry = entry
        self.session = session
        self._window_ms = math.inf if session.waits else window_ms
        self.alarm = AlarmState(manifest.contract.alarm)
        self._calibration = calibration
        self.site = site
        if calibration is not None and calibration.found is not None:
            self.alarm.threshold = calibration.found.threshold
        self.drift = DriftWatch(manifest.contract)
        self.explanation: Explanation | None = None
        self._selection: tuple[tuple[str, ...], Selection] | None = None
        self._users = 0
        self._retired = False

    def weighed(self, taken: ModelInput, release: Judged) -> Weighed:
        """Judge the next window of telemetry: by this site's monitor, or as the release did."""
        own = None if self.site is None else self.site.judged(taken, release)
        if own is not None:
            return Weighed(own, THRESHOLD, self.alarm.step(own.score, THRESHOLD))
        threshold = self.alarm.threshold
        return Weighed(release, threshold, self._over_limit(release.score))

    def _over_limit(self, score: float) -> bool:
        """Take in a score of the release; whether the alarm holds now."""
        alarm = self.alarm.step(score)
        limit = None if self._calibration is None else self._calibration.step(score)
        if limit is not None:
            self.alarm.threshold = limit
        return alarm

    @property
    def site_limit(self) -> SiteLimit | None:
        """The limit of this site; None while it is the release's, or a site monitor has its own."""
        is_own = self.site is not None and self.site.holds
        return None if is_own or self._calibration is None else self._calibration.found

    @property
    def key(self) -> str:
        """What its measured times are kept under: a slice of a release."""
        return f"{self.manifest.release}/{self.entry.spec.name}"

    def takes_ms(self, windows: int) -> float:
        """Processor time of one run at best; infinite where it may wait for something else."""
        return self._window_ms * windows

    def selection(self, sensors: tuple[str, ...]) -> Selection:
        """Where its sensors are in a row; remembered, because rows seldom change."""
        if self._selection is None or self._selection[0] != sensors:
            self._selection = (sensors, select(self.manifest.contract, sensors))
        return self._selection[1]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it open for as long as the block runs."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_if_unused()

    def retire(self) -> None:
        """Close it now, or as soon as the last user is done."""
        self._retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._retired and self._users == 0:
            self.session.close()


class Opened(msgspec.Struct, frozen=True, eq=False):
    """A session that passed its trial, and how long one window took at best, in milliseconds."""

    session: Session
    window_ms: float


def open_checked(path: Path, board: BoardSettings, contract: Contract, *, opener: Opener) -> Opened:
    """Load a slice, compare it with its contract and run it on an empty window, or empty texts.

    Raises:
        ModelLoadFailedError: it does not load, does not match, or does not run.
    """
    check_fed(contract)
    coder = coder_beside(path, contract)
    session = opener(path, board)
    try:
        _check_inputs(session, coder.inputs)
        if "vocabulary" in contract.needs:
            session = CodedSession(session, contract, coder)
        return Opened(session, min(_trial_ms(session, contract) for _ in range(WARM_UP_RUNS)))
    except AimassError as error:
        session.close()
        if isinstance(error, ModelLoadFailedError):
            raise
        raise ModelLoadFailedError(f"{path.name} does not run: {error.detail}") from error


def _check_inputs(session: Session, inputs: tuple[TensorSpec, ...]) -> None:
    """A model may take more than its release promises (any length), never less or other names."""
    found = {spec.name: spec for spec in session.inputs}
    promised = {spec.name: spec for spec in inputs}
    if found.keys() != promised.keys() or not all(
        _accepts(found[name], promised[name]) for name in found
    ):
        raise ModelLoadFailedError(
            f"the model's inputs are {', '.join(map(describe, session.inputs))};"
            f" its release promises {', '.join(map(describe, inputs))}"
        )


def _accepts(found: TensorSpec, promised: TensorSpec) -> bool:
    return (
        found.datatype == promised.datatype
        and len(found.shape) == len(promised.shape)
        and all(f in {ANY_SIZE, p} for f, p in zip(found.shape, promised.shape, strict=True))
    )


def _trial_ms(session: Session, contract: Contract) -> float:
    """Milliseconds of one run over an empty window; the first also builds what is built lazily.

    The outputs are compared as they come: exporters often lose the shapes in the file.
    """
    feeds = example(contract.inputs, 1)
    start = time.perf_counter()
    outputs = session.run(feeds)
    took_ms = (time.perf_counter() - start) * 1e3
    needed = (*(spec.name for spec in contract.outputs), *read_outputs(contract))
    missing = [name for name in dict.fromkeys(needed) if name not in outputs]
    if missing:
        raise ModelLoadFailedError(
            f"the model has no output {', '.join(missing)}, which its release promises; it has"
            f" {', '.join(outputs)}"
        )
    try:
        check_inputs(contract.outputs, {spec.name: outputs[spec.name] for spec in contract.outputs})
    except BadTensorError as error:
        raise ModelLoadFailedError(
            f"the model's outputs are not those of its release: {error.detail}"
        ) from error
    return took_ms
