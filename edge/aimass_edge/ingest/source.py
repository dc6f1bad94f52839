"""What a kind of source is to the ingest: filters to subscribe to, messages into a `RowGrid`.

Also what all kinds read from the settings. Nothing here connects.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from aimass_edge.bus import Inbound
from aimass_edge.config import SourceSettings
from aimass_shared.errors import InvalidSettingError
from aimass_shared.sparkplug.rules import Publication
from aimass_shared.windows import GridOptions

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


class Address(NamedTuple):
    """Where the factory's broker listens."""

    host: str
    port: int
    tls: bool


class Source(Protocol):
    """One plant. Nothing here does I/O; what it asks to be published is in `requests`."""

    @property
    def filters(self) -> Sequence[str]:
        """Topic filters to subscribe to."""
        ...

    def take(self, message: Inbound, now_ms: int) -> None:
        """Put a message's readings into the grid.

        Raises:
            RequestError: the message cannot be used.
        """
        ...

    def tick(self, now_ms: int) -> None:
        """Let time pass."""
        ...

    def connected(self) -> None:
        """We are connected and subscribed (again)."""
        ...

    def lost(self, now_ms: int) -> None:
        """Our connection is gone, so nothing is known any more."""
        ...

    def requests(self, now_ms: int) -> list[Publication]:
        """What the source must be asked for now."""
        ...


def source_address(settings: SourceSettings) -> Address:
    """Read `source.url`.

    Raises:
        InvalidSettingError: it is not `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`.
    """
    try:
        url = urlsplit(settings.url)
        port = url.port or DEFAULT_PORTS.get(url.scheme)
    except ValueError:  # the port is no number, or too large
        url, port = urlsplit(""), None
    if port is None or not url.hostname:
        raise InvalidSettingError(
            f"source.url must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT], got {settings.url!r}"
        )
    return Address(url.hostname, port, url.scheme == "mqtts")


def channels(settings: SourceSettings) -> dict[str, int]:
    """Channel number by the name that the plant has for it."""
    plant_names = {ours: theirs for theirs, ours in settings.rename.items()}
    return {plant_names.get(name, name): index for index, name in enumerate(settings.sensors)}


def grid_options(settings: SourceSettings) -> GridOptions:
    """How readings of a source become rows.

    Only Sparkplug says when a source is gone, so only there silence means unchanged; elsewhere a
    silent source makes no rows, unless the settings say for how long its values hold.
    """
    return GridOptions(
        step_ms=settings.step_ms,
        lateness_ms=settings.lateness_ms,
        hold_ms=settings.hold_ms,
        future_ms=settings.future_ms,
        snap_ms=settings.step_ms // 10,
        steady=settings.kind == "sparkplug" or settings.hold_ms > 0,
    )
