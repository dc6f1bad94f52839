"""`aimass slice list` and `aimass slice compare`: slices of models beside each other."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aimass_cloud.admin import Admin, Watch, segment
from aimass_cloud.cli import pictures
from aimass_cloud.models.files import write_whole
from aimass_shared.errors import InvalidSettingError

Json = dict[str, Any]
FULL = "w1.00-fp32"
INCHES = (8.0, 5.0)
LEAST_AREA, MOST_AREA = 30.0, 900.0


async def listed(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    """The slices of a model; on a board that was measured, its time."""
    found = await _fetched(admin, args.model)
    return found if args.json else [_line(one) for one in found["slices"]]


async def compared(admin: Admin, args: argparse.Namespace, _watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    """Each slice of a model beside its full one in float, or beside that of another model."""
    mine = await _fetched(admin, args.model)
    other = await _fetched(admin, args.other) if args.other else None
    shown = [mine] if other is None else [mine, other]
    _check_board(shown, args.board)
    if args.png:
        write_whole(Path(args.png), _picture(shown, args.board))
        sys.stderr.write(f"{args.png}\n")
    return _beside_full(mine, args.board) if other is None else _beside(mine, other, args.board)


async def _fetched(admin: Admin, model: str) -> Json:
    return dict(await admin.call("GET", f"/api/v1/models/{segment(model)}/slices"))


def _line(one: Json) -> Json:
    cost = one["cost"]
    boards = (f"{on['board']} {on['p50_ms']:.3g} ms" for on in one["boards"])
    return {
        "slice": one["slice"],
        "bytes": cost["model_bytes"],
        "MiB": cost["memory_mib"],
        "ms here": cost["reference_ms"],
        "error": cost["val_error"],
        "TensorRT": cost["tensorrt"] or "-",
        "on boards": ", ".join(boards) or "-",
        "releases": len(one["releases"]),
    }


def _beside_full(found: Json, board: str) -> list[Json]:
    """How much smaller, faster and worse each slice is than the full one in float.

    Raises:
        InvalidSettingError: the model has no such slice.
    """
    full = next((one for one in found["slices"] if one["slice"] == FULL), None)
    if full is None:
        raise InvalidSettingError(
            f"model {found['model']} has no slice {FULL}: name another model to compare it with"
        )
    return [_ratios(one, full, board) for one in found["slices"]]


def _beside(mine: Json, other: Json, board: str) -> list[Json]:
    """How each slice does beside the one of the same name of another model."""
    theirs = {one["slice"]: one for one in other["slices"]}
    rows = []
    for one in mine["slices"]:
        than = theirs.pop(one["slice"], None)
        rows.append({**_ratios(one, than or one, board), "only in": "" if than else mine["model"]})
    alone = [{**_ratios(one, one, board), "only in": other["model"]} for one in theirs.values()]
    return sorted(rows, key=lambda row: bool(row["only in"])) + alone


def _ratios(one: Json, than: Json, board: str) -> Json:
    cost, base = one["cost"], than["cost"]
    fast, slow = _ms(one, board), _ms(than, board)
    return {
        "slice": one["slice"],
        "bytes": cost["model_bytes"],
        "times smaller": _ratio(base["model_bytes"], cost["model_bytes"]),
        "ms": "-" if fast is None else fast,
        "times faster": "-" if fast is None or slow is None else _ratio(slow, fast),
        "error": cost["val_error"],
        "error change": _change(cost["val_error"], base["val_error"]),
    }


def _ms(one: Json, board: str) -> float | None:
    if not board:
        return float(one["cost"]["reference_ms"])
    return next((float(on["p50_ms"]) for on in one["boards"] if on["board"] == board), None)


def _ratio(large: float, small: float) -> str:
    return f"{large / small:.3g}" if small else "-"


def _change(error: float, than: float) -> str:
    return f"{error / than - 1.0:+.1%}" if than else f"{error - than:+.3g}"


def _check_board(found: Sequence[Json], board: str) -> None:
    known = sorted({on["board"] for one in found for s in one["slices"] for on in s["boards"]})
    if board and board not in known:
        raise InvalidSettingError(
            f"no device measured these slices on {board!r}, only on: {', '.join(known) or 'none'};"
            " `aimass-edge bench` measures"
        )


def _picture(found: Sequence[Json], board: str) -> bytes:
    """PNG: error over time, the area of a point is the size of the file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = pictures.empty(*INCHES)
    axes = figure.add_subplot()
    largest = max(s["cost"]["model_bytes"] for one in found for s in one["slices"])
    for one in found:
        shown = [(s, ms) for s in one["slices"] if (ms := _ms(s, board)) is not None]
        sizes = [max(LEAST_AREA, MOST_AREA * s["cost"]["model_bytes"] / largest) for s, _ in shown]
        times, errors = [ms for _, ms in shown], [s["cost"]["val_error"] for s, _ in shown]
        axes.scatter(times, errors, s=sizes, alpha=0.5, label=one["model"])
        for slice_, ms in shown:
            axes.annotate(slice_["slice"], (ms, slice_["cost"]["val_error"]), fontsize=7)
    axes.set_xscale("log")
    axes.set(xlabel=f"ms a window on {board or 'the coordinator'}", ylabel="error on test samples")
    axes.set_title("slices; the area is the size of the file")
    axes.legend()
    return pictures.png(figure)
