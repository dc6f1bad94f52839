"""The table of plans that travels to a device: what no other candidate beats in everything."""

from collections.abc import Iterable, Sequence

import msgspec

from aimass_shared.errors import (
    InvalidSettingError,
    MalformedMessageError,
    UnfitReleaseError,
)
from aimass_shared.planning.profiles import Device, Profile

SCHEMA = 1
MAX_TABLE_BYTES = 1 << 16


class PlanTable(msgspec.Struct, frozen=True, kw_only=True):
    """Candidates of one model for devices of one kind, none of which another one beats.

    Attributes:
        model: its name.
        profiles: dominated ones left out, fastest here first.
    """

    model: str
    profiles: tuple[Profile, ...]
    schema: int = SCHEMA


def tabled(model: str, profiles: Sequence[Profile], device: Device) -> PlanTable:
    """The table for a device: what it can hold and execute, dominated candidates left out.

    Raises:
        UnfitReleaseError: nothing is left; the detail says what the smallest one needs.
    """
    possible = [one for one in profiles if lacks(one, device) is None]
    if not possible:
        least = min(profiles, key=lambda one: one.memory_mib)
        raise UnfitReleaseError(
            f"no candidate of {model} fits: {least.candidate.name} {lacks(least, device)}"
        )
    kept = sorted(pareto(possible), key=lambda one: (one.edge_ms, one.candidate.name))
    return PlanTable(model=model, profiles=tuple(kept))


def lacks(profile: Profile, device: Device) -> str | None:
    """In words, what a device lacks for a candidate; nothing where it lacks nothing."""
    here = profile.candidate.place != "cloud"
    if here and profile.memory_mib > device.memory_mib:
        return f"needs {profile.memory_mib:.0f} MiB, the device gives {device.memory_mib:.0f}"
    if here and profile.candidate.precision not in device.precisions:
        runs = ", ".join(device.precisions)
        return f"is {profile.candidate.precision}, the device runs {runs}"
    return None


def pareto(profiles: Iterable[Profile]) -> list[Profile]:
    """Those that no other one equals or beats in everything; of equals, the first."""
    kept: list[Profile] = []
    for one in sorted(profiles, key=lambda one: (_costs(one), one.candidate)):
        if not any(_beats(other, one) for other in kept):
            kept.append(one)
    return kept


def beaten_by(profile: Profile, others: Iterable[Profile]) -> Profile | None:
    """A candidate that equals or beats this one in everything, if there is any."""
    return next((one for one in others if one is not profile and _beats(one, profile)), None)


def _beats(one: Profile, other: Profile) -> bool:
    """Not worse in anything; lower costs sort first, so equals are decided by order."""
    return all(mine <= theirs for mine, theirs in zip(_costs(one), _costs(other), strict=True))


def _costs(profile: Profile) -> tuple[float, ...]:
    """What a candidate takes; waiting for the edge, and for the link, is a cost beside the time."""
    return (
        float(profile.candidate.place != "cloud"),
        float(profile.candidate.place != "edge"),
        profile.loss,
        profile.edge_ms,
        float(profile.bytes_up),
        profile.cloud_ms,
        profile.memory_mib,
    )


def encode(table: PlanTable) -> bytes:
    """JSON of a table, always the same for the same table.

    Raises:
        InvalidSettingError: it is larger than devices take.
    """
    raw = msgspec.json.encode(table, order="sorted")
    if len(raw) > MAX_TABLE_BYTES:
        raise InvalidSettingError(
            f"the table of {len(table.profiles)} plans has {len(raw)} bytes, the limit is"
            f" {MAX_TABLE_BYTES}: measure fewer candidates"
        )
    return raw


def decode(raw: bytes) -> PlanTable:
    """Read a table.

    Raises:
        MalformedMessageError: it is none, too large, empty, or of another schema.
    """
    if len(raw) > MAX_TABLE_BYTES:
        raise MalformedMessageError(
            f"table of plans has {len(raw)} bytes, the limit is {MAX_TABLE_BYTES}"
        )
    try:
        table = msgspec.json.decode(raw, type=PlanTable)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedMessageError(f"table of plans does not decode: {error}") from error
    if table.schema != SCHEMA or not table.profiles:
        raise MalformedMessageError(
            f"table of plans has schema {table.schema} and {len(table.profiles)} candidates;"
            f" this version knows schema {SCHEMA} and needs one at least"
        )
    return table
