"""`aimass slice plan`: which slice, codec and place suit a device and a link; works offline.

With `--release` the plans come from a coordinator, which whoever calls this has asked.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from aimass_cloud.cli import pictures
from aimass_cloud.cli.output import show
from aimass_cloud.models.files import write_whole
from aimass_shared.errors import InvalidSettingError
from aimass_shared.planning import (
    Backlog,
    Demand,
    Device,
    Link,
    ProfileSet,
    Ranked,
    rank,
    tabled,
)
from aimass_shared.planning import table as tables
from aimass_shared.planning.prediction import NEVER_MS
from aimass_shared.planning.profiles import decode

Json = dict[str, Any]
Checked = TypeVar("Checked")
CALL = "slice-plan"
LINK = re.compile(
    r"(?P<mbit>\d+(\.\d+)?)mbit,(?P<rtt>\d+(\.\d+)?)ms(,(?P<loss>\d+(\.\d+)?)%)?", re.IGNORECASE
)
INCHES = (9.0, 0.45)
PARTS = ("edge", "uplink", "cloud", "waiting and round trip")
EXAMPLE = Path(__file__).with_name("example_profiles.json")


def carry_out(args: argparse.Namespace, fetched: bytes | None = None) -> int:
    """Carry out the command; the exit code.

    Args:
        args: what was typed.
        fetched: the plans of a release.

    Raises:
        InvalidSettingError: the file is none of profiles, or an option is not as it should be.
        UnfitReleaseError: with `--table`, no candidate fits the device.
        MissingExtraError: with `--png`, matplotlib is not installed.
        StorageError: a file cannot be written.
    """
    if args.example:
        sys.stdout.write(EXAMPLE.read_text("utf-8"))
        return 0
    if fetched is None and not args.profiles:
        raise InvalidSettingError(
            "--profiles FILE or --release RELEASE is needed; --example prints a file"
        )
    raw = _read(args.profiles) if fetched is None else fetched
    found = decode(raw, args.profiles or f"the plans of {args.release}")
    device, demand, link = _device(args), _demand(args), _link(args.link)
    queued = {"edge_ms": args.edge_queue_ms, "uplink_ms": args.uplink_queue_ms}
    backlog = _checked(queued, Backlog)
    ranked = rank(found.profiles, demand, device=device, link=link, backlog=backlog)
    if args.table:
        content = tables.encode(tabled(found.model, found.profiles, device))
        write_whole(Path(args.table), content)
        _tell(f"{args.table}: {len(content)} bytes")
    if args.png:
        write_whole(Path(args.png), _picture(ranked, demand))
        _tell(args.png)
    _answer(found, ranked, args)
    return 0


def _answer(found: ProfileSet, ranked: Sequence[Ranked], args: argparse.Namespace) -> None:
    if args.json:
        rows = [{"name": one.candidate.name, **msgspec.to_builtins(one)} for one in ranked]
        show({"model": found.model, "about": found.about, "ranked": rows}, json=True)
        return
    show([_row(place, one, args) for place, one in enumerate(ranked, 1)], json=False)


def _row(place: int, one: Ranked, args: argparse.Namespace) -> Json:
    """A line of the table; with `--explain`, the reason is printed whole below it."""
    row = {
        "": place,
        "plan": one.candidate.name,
        "goodput": _goodput(one),
        "ms": f"{one.total_ms:.4g}" if one.total_ms < NEVER_MS else "never",
        "edge busy": f"{one.edge_busy:.0%}",
        "uplink busy": f"{one.uplink_busy:.0%}",
    }
    return {**row, "why": one.why} if args.explain else row


def _goodput(one: Ranked) -> str:
    return f"{one.goodput:.3f}" if one.possible else "-"


def _device(args: argparse.Namespace) -> Device:
    given: Json = {"slowdown": args.slowdown, "memory_mib": args.memory_mib}
    if args.precision:
        given["precisions"] = tuple(args.precision)
    return _checked(given, Device)


def _demand(args: argparse.Namespace) -> Demand:
    given = {
        "deadline_ms": args.deadline_ms,
        "max_loss": args.max_loss,
        "rate_per_s": args.rate,
        "cloud_parallel": args.cloud_parallel,
    }
    return _checked(given, Demand)


def _link(text: str) -> Link:
    if text == "none":
        return Link(bandwidth_mbit_s=0.0)
    match = LINK.fullmatch(text)
    if match is None:
        raise InvalidSettingError(f"--link {text}: write it as 4mbit,30ms or 4mbit,30ms,1% or none")
    loss = float(match["loss"] or 0.0) / 100
    given = {"bandwidth_mbit_s": float(match["mbit"]), "rtt_ms": float(match["rtt"]), "loss": loss}
    return _checked(given, Link)


def _checked(given: Json, kind: type[Checked]) -> Checked:
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise InvalidSettingError(f"of what was typed: {error}") from error


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidSettingError(f"--profiles {file}: {error.strerror}") from error


def _picture(ranked: Sequence[Ranked], demand: Demand) -> bytes:
    """PNG: the parts of each plan's time beside the deadline, best on top.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    shown = list(reversed(ranked))
    figure = pictures.empty(INCHES[0], 1.5 + INCHES[1] * len(shown))
    axes = figure.add_subplot()
    names = [f"{one.candidate.name}  {_goodput(one)}" for one in shown]
    left, wide = [0.0] * len(shown), 2.0 * demand.deadline_ms
    for part, lengths in zip(PARTS, _lengths(shown, wide), strict=True):
        axes.barh(names, lengths, left=left, label=part)
        left = [start + length for start, length in zip(left, lengths, strict=True)]
    axes.axvline(demand.deadline_ms, color="black", linestyle=":", label="deadline")
    axes.set(xlabel="ms of one request", title="plans and their expected goodput, best on top")
    axes.set_xlim(0.0, wide)
    axes.legend(loc="lower right")
    return pictures.png(figure)


def _lengths(shown: Sequence[Ranked], wide: float) -> list[list[float]]:
    """Each part of each plan, ms, together its whole time; what is too long ends at `wide`."""
    own = [[one.edge_ms, one.uplink_ms, one.cloud_ms] for one in shown]
    rest = [one.total_ms - sum(parts) for one, parts in zip(shown, own, strict=True)]
    columns = zip(*([*parts, left] for parts, left in zip(own, rest, strict=True)), strict=True)
    return [[min(max(length, 0.0), wide) for length in column] for column in columns]


def _tell(line: str) -> None:
    """For a person; standard output is for the answer."""
    sys.stderr.write(f"{line}\n")
