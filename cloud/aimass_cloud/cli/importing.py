"""`aimass slice import`: a user's own ONNX file, with the files beside it, to the coordinator."""

import argparse
import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimass_cloud.admin import Admin, Watch
from aimass_cloud.cli.cutting import sizes_of
from aimass_cloud.models.files import digest_of
from aimass_shared.errors import InvalidSettingError, MissingExtraError, ModelLoadFailedError

UPLOADED = 0.2
"""Share of the whole work that is done when all files are there."""
LONGEST = 64
SHOWN = ("slice", "bytes", "memory_mib", "p50_ms", "val_error", "codec", "max_abs_error")


async def import_onnx(admin: Admin, args: argparse.Namespace, watch: Watch) -> Any:  # noqa: ANN401  JSON of any shape
    """Put the files, have the coordinator import them, and release the model if asked to."""
    files = await asyncio.to_thread(_files, Path(args.file))
    samples = {"": Path(args.samples)} if args.samples else {}
    body: dict[str, Any] = {
        "name": args.name or _name_of(Path(args.file)),
        "graph": Path(args.file).name,
        "labels": _labels(args.labels),
        "sizes": sizes_of(args),
        "cuts": args.cuts,
        **({"classes": args.classes} if args.classes else {}),
    }
    digests = await _uploaded(admin, {**files, **samples}, watch)
    body["files"] = {name: digests[name] for name in files}
    body["samples"] = digests.get("", "")

    def rest(fraction: float, message: str) -> None:
        watch(UPLOADED + fraction * (1 - UPLOADED), message)

    made = await admin.wait(await admin.start("import", body), rest)
    if args.channel:
        made["release"] = (await admin.release(made["model"], args.channel))["id"]
    return made if args.json else _short(made)


async def _uploaded(admin: Admin, files: Mapping[str, Path], watch: Watch) -> dict[str, str]:
    """The digest of each file, once it is there."""
    sizes = {name: _size(path) for name, path in files.items()}
    total, done = sum(sizes.values()) or 1, 0
    found = {}
    for name, path in files.items():
        watch(UPLOADED * done / total, f"sending {path.name}")
        found[name] = await asyncio.to_thread(digest_of, path)
        await admin.upload(path, found[name])
        done += sizes[name]
    return found


def _size(path: Path) -> int:
    """Bytes of a file.

    Raises:
        InvalidSettingError: it cannot be read.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise InvalidSettingError(f"{path}: {error.strerror}") from error


def _files(path: Path) -> dict[str, Path]:
    """The file and those beside it, by the names that it has for them.

    Raises:
        ModelLoadFailedError: it is no ONNX file, or one beside it is missing.
        InvalidSettingError: it cannot be read.
    """
    names = {path.name, *_named(path)}
    files = {name: path.parent / name for name in sorted(names)}
    for file in files.values():
        if not file.is_file():
            raise ModelLoadFailedError(f"{file} is missing: weights of the model are in it")
    return files


def _named(path: Path) -> set[str]:
    try:
        import onnx  # noqa: PLC0415  slow to import
        from google.protobuf.message import DecodeError  # noqa: PLC0415  as above

        from aimass_cloud.slicing.cuts.reading import files_beside  # noqa: PLC0415  as above
    except ModuleNotFoundError as error:
        raise MissingExtraError(f'this needs {error.name}: pip install "aimass[cloud]"') from error
    try:
        return files_beside(onnx.load_model_from_string(path.read_bytes()))
    except OSError as error:
        raise InvalidSettingError(f"{path} cannot be read: {error.strerror}") from error
    except (DecodeError, ValueError) as error:
        raise ModelLoadFailedError(f"{path} is no ONNX model: {error}") from error


def _name_of(path: Path) -> str:
    """The name of a file as that of a model."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-.")[:LONGEST] or "model"


def _labels(text: str) -> list[str]:
    """Names of classes: joined by commas, or the lines of a file after `@`.

    Raises:
        InvalidSettingError: the file cannot be read.
    """
    if not text.startswith("@"):
        return [label.strip() for label in text.split(",") if label.strip()]
    try:
        lines = Path(text[1:]).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettingError(f"--labels {text}: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _short(made: dict[str, Any]) -> dict[str, Any]:
    """What a person wants to see: tensors in a word each."""
    told = {
        kind: " ".join(f"{one['name']} {one['datatype']}{one['shape']}" for one in made[kind])
        for kind in ("inputs", "outputs")
    }
    slices = [{name: one.get(name, "") for name in SHOWN} for one in made["slices"]]
    return {**made, **told, "slices": slices}
