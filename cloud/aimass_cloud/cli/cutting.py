"""`aimass slice cuts` and `aimass slice split`: cuts of any ONNX file, without a coordinator."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from aimass_cloud.cli.output import show
from aimass_shared.errors import InvalidSettingError, MissingExtraError

if TYPE_CHECKING:
    from aimass_cloud.slicing.cuts import Cut, Cuts, Whole

Json = dict[str, Any]
CALLS = frozenset({"slice-cuts", "slice-split"})


def carry_out(args: argparse.Namespace) -> int:
    """Carry out a command; the exit code.

    Raises:
        AimassError: the file cannot be cut, or not like that; the detail says why.
        MissingExtraError: onnx is not installed.
    """
    try:
        return _list(args) if args.call == "slice-cuts" else _split(args)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("aimass"):
            raise  # a defect of ours, not an extra
        raise MissingExtraError(f'this needs {error.name}: pip install "aimass[cloud]"') from error


def _list(args: argparse.Namespace) -> int:
    from aimass_cloud.slicing.cuts import read  # noqa: PLC0415  onnx is slow to import

    found = _found(args, read(Path(args.file)), _given(args))
    if args.json:
        show(msgspec.to_builtins(found), json=True)
        return 0
    show([_row(cut) for cut in found.cuts], json=False)
    sent = "unknown" if found.input_bytes is None else f"{found.input_bytes} bytes a sample"
    _tell(f"{len(found.cuts)} cuts of {found.nodes} nodes; the inputs themselves: {sent}")
    for line in _remarks(found):
        _tell(line)
    return 0


def _split(args: argparse.Namespace) -> int:
    from aimass_cloud.slicing import cuts  # noqa: PLC0415  onnx is slow to import

    if args.seed < 0:
        raise InvalidSettingError(f"--seed {args.seed}: it must be 0 or more")
    given = _given(args)
    whole = cuts.read(Path(args.file))
    wanted = _found(args, whole, given).find(args.cut)
    parts = cuts.split(whole, wanted, **given)
    agreement = cuts.Reference(whole, seed=args.seed, **given).agreement(*parts)
    tolerance = cuts.tolerance_of(whole) if args.tolerance is None else args.tolerance
    cuts.demand(agreement, wanted.id, tolerance)
    files = [file for part in parts for file in part.save(Path(args.out) / f"{part.side}.onnx")]
    answer: Json = {
        "cut": wanted.id,
        "files": [str(file) for file in files],
        "bytes": [file.stat().st_size for file in files],
        "bytes_per_sample": wanted.bytes_per_sample,
        "max_abs_error": agreement.max_abs_error,
        "max_rel_error": agreement.max_rel_error,
        "identical": agreement.identical,
        "outputs": agreement.outputs,
    }
    show(answer, json=args.json)
    return 0


def _given(args: argparse.Namespace) -> Json:
    """What a model is tried with."""
    return {"sizes": sizes_of(args), "inputs": _inputs(args.inputs)}


def _found(args: argparse.Namespace, whole: "Whole", given: Json) -> "Cuts":
    from aimass_cloud.slicing.cuts import cuts_of  # noqa: PLC0415  onnx is slow to import

    if min(args.tensors, args.most) < 1:
        raise InvalidSettingError("--tensors and --most must be at least 1")
    return cuts_of(whole, most_tensors=args.tensors, most_cuts=args.most, **given)


def _row(cut: "Cut") -> Json:
    shapes = (f"[{', '.join(map(str, one.shape))}]" for one in cut.crossing)
    return {
        "cut": cut.id,
        "crossing": " ".join(cut.names),
        "shape": " ".join(shapes),
        "type": " ".join(one.dtype for one in cut.crossing),
        "bytes": "?" if cut.bytes_per_sample is None else cut.bytes_per_sample,
        "head": cut.head_nodes,
        "tail": cut.tail_nodes,
        "splits": ", ".join(cut.splits),
    }


def _remarks(found: "Cuts") -> list[str]:
    unsized = [f"bytes need a size: --size {axis}=N" for axis in found.unsized]
    return [*unsized, *found.refused, *([found.note] if found.note else [])]


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def sizes_of(args: argparse.Namespace) -> dict[str, int]:
    """Sizes of axes.

    Raises:
        InvalidSettingError: one is not NAME=N.
    """
    found: dict[str, int] = {}
    for text in args.size or ():
        name, _, size = text.rpartition("=")
        if not name or not size.isdecimal() or not int(size):
            raise InvalidSettingError(f"--size {text}: write NAME=N, such as sequence=128")
        found[name] = int(size)
    return found


def _inputs(path: str | None) -> dict[str, Any] | None:
    """Arrays by input name.

    Raises:
        InvalidSettingError: the file cannot be read.
    """
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidSettingError(f"--inputs {path}: it must be an .npz file: {error}") from error
