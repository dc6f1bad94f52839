"""`aimass slice check`: whether TensorRT builds an ONNX file, before a device meets it."""

import argparse
from pathlib import Path

import msgspec

from aimass_cloud.cli.cutting import sizes_of
from aimass_cloud.cli.output import show
from aimass_shared.errors import InvalidSettingError, MissingExtraError, NotFoundError
from aimass_shared.slices import BUILDS

CALL = "slice-check"
REFUSED = 1


def carry_out(args: argparse.Namespace) -> int:
    """Carry out the command; the exit code: 1 if TensorRT refuses the file.

    Raises:
        NotFoundError: there is no such file.
        InvalidSettingError: a size or the deadline is not as it should be.
        MissingExtraError: TensorRT is not installed.
    """
    from aimass_cloud.slicing import engines  # noqa: PLC0415  the other commands start without it

    path = Path(args.file)
    if not path.is_file():
        raise NotFoundError(f"{args.file}: there is no such file")
    if args.batch < 1 or args.deadline_s <= 0:
        raise InvalidSettingError("--batch must be at least 1, --deadline-s over 0")
    if not engines.is_installed():
        raise MissingExtraError("this needs TensorRT: pip install tensorrt-rtx (x86-64 only)")
    trial = engines.tried(
        path, most_batch=args.batch, deadline_s=args.deadline_s, sizes=sizes_of(args)
    )
    show(msgspec.to_builtins(trial), json=args.json)
    return 0 if trial.verdict == BUILDS else REFUSED
