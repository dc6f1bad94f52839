"""A limit of this site's own for a release's score, from its first windows of normal operation.

A release's limit is calibrated where it was trained; another site is normal in another way. Where
`monitor.calibration_windows` is set, the first so many windows under a release are taken for normal
operation: they calibrate the limit that alarms from then on. It is kept, so that a restart in the
middle of a fault does not learn the fault.
"""

import logging
from pathlib import Path

import msgspec
import numpy as np

from aimass_edge.durable import replace_durably
from aimass_shared.errors import TrainingFailedError
from aimass_shared.manifest import Manifest
from aimass_shared.monitoring import LONGEST, RootSums, limit

log = logging.getLogger(__name__)

FILE = "limits.json"


class SiteLimit(msgspec.Struct, frozen=True):
    """The limit of a release's score at this site, and how many windows it comes from."""

    release: str
    threshold: float
    windows: int


class Calibrations(msgspec.Struct, frozen=True):
    """How releases are calibrated here.

    Attributes:
        windows: how many windows a limit is calibrated on; 0 keeps the releases' limits.
        folder: where limits are kept; None keeps none.
    """

    windows: int = 0
    folder: Path | None = None

    def of(self, manifest: Manifest) -> "Calibration":
        """The calibration of a release, with the limit that was kept for it, if there is one."""
        if manifest.contract.alarm is None or not self.windows:
            return Calibration(manifest.release, 0, None)
        file = None if self.folder is None else self.folder / FILE
        found = Calibration(manifest.release, self.windows, file)
        found.take_up()
        return found


class Calibration:
    """Collects the scores of a release until there are enough; then there is a limit."""

    def __init__(self, release: str, windows: int, file: Path | None) -> None:
        self._release = release
        self._windows = windows
        self._file = file
        self._scores: list[float] = []
        self.found: SiteLimit | None = None

    def take_up(self) -> None:
        """Read the limit that was kept; one of another release is none."""
        if self._file is None:
            return
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=SiteLimit)
        except (OSError, msgspec.DecodeError):
            return
        self.found = kept if kept.release == self._release else None

    def step(self, score: float) -> float | None:
        """Take in the score of the next window; the limit when this one completes it."""
        if not self._windows or self.found is not None:
            return None
        self._scores.append(max(score, 0.0))
        if len(self._scores) < self._windows:
            return None
        return self._completed()

    def _completed(self) -> float | None:
        scores, self._scores = np.array(self._scores), []
        try:
            threshold = limit(RootSums.of(scores, LONGEST))
        except TrainingFailedError as error:
            log.warning("the release's limit stays: %s", error)
            self._windows = 0
            return None
        self.found = SiteLimit(self._release, threshold, len(scores))
        log.info("limit of %s at this site: %.3f", self._release, threshold)
        self._keep(self.found)
        return threshold

    def _keep(self, found: SiteLimit) -> None:
        """Replace the file; what cannot be kept is calibrated again after a restart."""
        if self._file is None:
            return
        try:
            replace_durably(self._file, msgspec.json.encode(found))
        except OSError as error:
            log.warning("the limit of this site is not kept: %s", error)
