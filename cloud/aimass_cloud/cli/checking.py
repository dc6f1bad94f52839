"""`aimass slice check`: whether TensorRT builds an ONNX file, before a device meets it."""

import argparse
import tempfile
from pathlib import Path

import msgspec

from aimass_cloud.cli.cutting import sizes_of
from aimass_cloud.cli.output import show
from aimass_shared.errors import InvalidSettingError, MissingExtraError, NotFoundError

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
    options = {
        "most_batch": args.batch,
        "deadline_s": args.deadline_s,
        "sizes": sizes_of(args),
    }
    trial = engines.tried(path, **options)
    told = msgspec.to_builtins(trial)
    if not trial.builds and (model := _without_scatter(path)) is not None:
        with tempfile.TemporaryDirectory() as folder:
            other = Path(folder) / path.name
            other.write_bytes(model)
            told["as_a_slice"] = engines.tried(other, **options).verdict
    show(told, json=args.json)
    return 0 if trial.builds else REFUSED


def _without_scatter(path: Path) -> bytes | None:
    """The model as slices and imports have it; None if that is the same, or no model."""
    import onnx  # noqa: PLC0415  slow to import
    from google.protobuf.message import DecodeError  # noqa: PLC0415  comes with it

    from aimass_cloud.slicing.scatter import without_scatter  # noqa: PLC0415  needs it

    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError:
        return None
    if any(tensor.external_data for tensor in model.graph.initializer):
        return None
    other = without_scatter(model)
    return None if other is model else other.SerializeToString()
