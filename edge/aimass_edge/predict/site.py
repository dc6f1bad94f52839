"""The monitor of this site while a release is active: its rows, its fit, its scores.

Where `monitor.site_rows` is set, the first so many rows under a release are taken for normal
operation, whatever the release's own monitor says of them: at another operating point it would
leave out just what is normal here. They lie in the private history. Once there are enough, a
monitor is fitted in a thread (`site_fit`), and from then on it scores and explains the windows of
telemetry, also under later releases that carry the same fleet. Nothing here stops a prediction:
where anything is wrong, the release's monitor stays, and the status says why.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

import anyio.to_thread
import msgspec
import numpy as np

from aimass_edge.config import EdgeSettings
from aimass_edge.durable import replace_durably
from aimass_edge.history import Segment
from aimass_edge.predict.site_fit import (
    MIN_ROWS,
    Fitted,
    Origin,
    check_normal,
    fitted,
    read,
    write,
)
from aimass_edge.predict.telemetry import Judged, ModelInput, blamed
from aimass_shared import fleet as fleets
from aimass_shared.errors import (
    AimassError,
    BadUpdateError,
    InvalidSettingError,
    StorageError,
    TrainingFailedError,
)
from aimass_shared.fleet import Fleet
from aimass_shared.manifest import Manifest, SliceEntry
from aimass_shared.monitoring import LONGEST

log = logging.getLogger(__name__)

FILE: Final = "site_monitor.bin"
BEGIN_FILE: Final = "site_begin.json"
THRESHOLD: Final = 1.0
"""A site monitor's score is in units of its limits."""

State = Literal["collecting", "active", "unavailable"]


class RowHistory(Protocol):
    """Where the rows of this site are kept."""

    async def since(self, sensors: Sequence[str], time_ms: int, count: int) -> list[Segment]:
        """The first `count` rows from a time on, as segments without gaps."""
        ...


class SiteStatus(msgspec.Struct, frozen=True):
    """How it is with the monitor of this site.

    Attributes:
        state: collecting rows (the release's monitor holds until then), active, or unavailable.
        wanted: rows that it is fitted and calibrated on. seen: of them there are, at the last look.
        rows: complete ones that the VAR was fitted on. calibration: that gave the limits.
        weight: rows of the fleet that count as the site's; null takes the fleet's dynamics.
        limits: of the charts, whose statistics are about 1 in normal operation.
        why: it is unavailable, or the last try failed.
    """

    state: State
    wanted: int
    seen: int = 0
    rows: int = 0
    calibration: int = 0
    weight: float = 0.0
    limits: tuple[float, ...] = ()
    why: str = ""


def rows_asked(settings: EdgeSettings) -> int:
    """Rows that a monitor of this site is to be made from; 0 for none.

    Raises:
        InvalidSettingError: `monitor.site_rows` is too small, or more than the history keeps.
    """
    rows, most = settings.monitor.site_rows, settings.history.max_rows
    if rows and not MIN_ROWS <= rows <= most:
        raise InvalidSettingError(
            f"monitor.site_rows is {rows}: it must be 0, or from {MIN_ROWS} to"
            f" history.max_rows ({most})"
        )
    return rows


class SiteMonitors(msgspec.Struct, frozen=True):
    """How releases get a monitor of this site.

    Attributes:
        rows: that it is made from; 0 makes none.
        folder: where it is kept. history: where the rows are.
    """

    rows: int = 0
    folder: Path = Path()
    history: RowHistory | None = None

    @classmethod
    def asked(cls, settings: EdgeSettings, history: RowHistory) -> "SiteMonitors":
        """As the settings of the device ask for it.

        Raises:
            InvalidSettingError: see `rows_asked`.
        """
        return cls(rows_asked(settings), Path(settings.data_dir), history)

    def of(self, manifest: Manifest, entry: SliceEntry, directory: Path) -> "SiteWatch | None":
        """The monitor of a slice that becomes active, as it was kept; None where none is asked for.

        Reads files.
        """
        if not self.rows or self.history is None or manifest.contract.alarm is None:
            return None
        watch = SiteWatch(manifest, self.rows, self.folder, history=self.history)
        try:
            watch.take_up(entry, directory)
        except (AimassError, OSError) as error:
            watch.give_up(str(error))
        return watch


class _Begin(msgspec.Struct, frozen=True):
    """Since when rows count, for an origin."""

    origin: Origin
    since_ms: int


class SiteWatch:
    """The monitor of this site under one release."""

    def __init__(
        self, manifest: Manifest, wanted: int, folder: Path, *, history: RowHistory
    ) -> None:
        self._contract = manifest.contract
        self._sensors = tuple(sensor.name for sensor in manifest.contract.sensors)
        self._origin = Origin("", wanted)
        self._folder = folder
        self._history = history
        self._fleet: Fleet | None = None
        self._found: Fitted | None = None
        self._since_ms: int | None = None
        self._seen = 0
        self._until_look = 0
        self._busy = False
        self._why = ""

    def take_up(self, entry: SliceEntry, directory: Path) -> None:
        """Read the release's fleet, and what was kept for it. Blocks.

        Raises:
            BadUpdateError: there is no fleet, or it does not fit.
            OSError: it cannot be read.
        """
        if not entry.has("fleet"):
            raise BadUpdateError("the release has no fleet: train and slice its model again")
        raw = (directory / fleets.FILE).read_bytes()
        fleet = fleets.unpack(raw, self._sensors)
        if self._contract.window < fleet.moments.lags + LONGEST:
            raise BadUpdateError(
                f"windows have {self._contract.window} rows, a site monitor needs"
                f" {fleet.moments.lags + LONGEST}"
            )
        digest = hashlib.sha256(raw).hexdigest()
        self._origin = msgspec.structs.replace(self._origin, fleet=digest)
        self._found = read(self._folder / FILE, self._origin, len(self._sensors))
        self._since_ms = self._begun()
        self._fleet = fleet
        if self._found is not None:
            log.info("the monitor of this site holds, of %d rows", self._origin.wanted)

    def give_up(self, why: str) -> None:
        """Leave it at the release's monitor for as long as this release is active."""
        self._fleet, self._found, self._why = None, None, why
        log.warning("the release's monitor stays: %s", why)

    def step(self, end_ms: int) -> bool:
        """Count in the window that ends at a time; whether `work` has something to do now."""
        if self._found is not None or self._fleet is None or self._busy:
            return False
        self._until_look -= self._contract.stride
        if self._until_look > 0:
            return False
        if self._since_ms is None:
            self._since_ms = end_ms
        self._busy = True
        return True

    async def work(self) -> None:
        """Look whether there are enough rows, and fit then; it never fails."""
        try:
            await self._look()
        except TrainingFailedError as error:
            log.warning("this site begins to collect rows anew: %s", error)
            self._again(str(error), anew=True)
        except (StorageError, OSError) as error:
            self._again(str(error), anew=False)
        except AimassError as error:
            self.give_up(str(error))
        except Exception as error:
            log.exception("the monitor of this site failed")
            self.give_up(f"{type(error).__name__}: {error}")
        finally:
            self._busy = False

    def judged(self, taken: ModelInput, release: Judged) -> Judged | None:
        """The window by this site's monitor, with the forecast of the release's.

        None while there is no monitor, or where its score is no number.
        """
        rule = self._contract.alarm
        if self._found is None or rule is None:
            return None
        monitor = self._found.monitor
        with np.errstate(over="ignore", invalid="ignore"):
            (each,) = monitor.explained(taken.newest(monitor.lead + 1))
        score = float(each.sum())
        if not np.isfinite(score):
            return None
        return msgspec.structs.replace(
            blamed(self._contract, rule, score, each=each), forecast=release.forecast
        )

    @property
    def holds(self) -> bool:
        """Whether this site's monitor is the one that scores."""
        return self._found is not None

    def status(self) -> SiteStatus:
        """How it is with it."""
        wanted, found = self._origin.wanted, self._found
        if found is None or self._fleet is None:
            state: State = "unavailable" if self._fleet is None else "collecting"
            return SiteStatus(state, wanted, self._seen, why=self._why)
        return SiteStatus(
            "active",
            wanted,
            wanted,
            found.rows,
            found.calibration,
            self._fleet.weight,
            tuple(round(level, 4) for level in found.monitor.limits.levels),
            self._why,
        )

    async def _look(self) -> None:
        fleet, since, wanted = self._fleet, self._since_ms, self._origin.wanted
        if fleet is None or since is None:
            return
        await anyio.to_thread.run_sync(self._keep_begin, since)
        segments = await self._history.since(self._sensors, since, wanted)
        self._seen = sum(len(values) for values, _ in segments)
        self._until_look = wanted - self._seen
        if self._until_look > 0:
            return
        found = await anyio.to_thread.run_sync(fitted, segments, fleet)
        check_normal(found)
        self._why = await anyio.to_thread.run_sync(self._keep, found)
        self._found = found
        log.info("the monitor of this site holds from now on, of %d rows", wanted)

    def _again(self, why: str, *, anew: bool) -> None:
        self._why = why
        self._until_look = max(self._origin.wanted // 4, 1)
        if anew:
            self._since_ms, self._seen = None, 0

    def _keep(self, found: Fitted) -> str:
        """Why it is not kept, if so: it holds until the restart, and is fitted again after it."""
        try:
            write(self._folder / FILE, self._origin, found)
        except (OSError, BadUpdateError) as error:
            log.warning("the monitor of this site is not kept: %s", error)
            return f"it is not kept: {error}"
        return ""

    def _keep_begin(self, since_ms: int) -> None:
        if self._begun() == since_ms:
            return
        body = msgspec.json.encode(_Begin(self._origin, since_ms))
        try:
            replace_durably(self._folder / BEGIN_FILE, body)
        except OSError as error:
            log.warning("after a restart this site collects its rows anew: %s", error)

    def _begun(self) -> int | None:
        try:
            kept = msgspec.json.decode((self._folder / BEGIN_FILE).read_bytes(), type=_Begin)
        except (OSError, msgspec.DecodeError):
            return None
        return kept.since_ms if kept.origin == self._origin else None
