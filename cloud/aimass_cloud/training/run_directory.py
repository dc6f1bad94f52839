"""The directory of a training: what it was asked, how it went, where it can go on, what it gave.

run.toml            settings, as `--config` takes them
run.json            recipe, settings, versions of what computed it
metrics.parquet     a row for each look at held-back samples
metrics.json        the same, and in the end figures and baselines
checkpoints/        the last two (see `checkpoints`)
plots/              loss and held-back error, as PNG
model/              the model, once it is finished
"""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from aimass_cloud.models.files import refused, write_whole
from aimass_cloud.models.trained import INFO, TrainedModel
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.training.checkpoints import Checkpoints
from aimass_cloud.training.history import Row
from aimass_cloud.training.plots import plotted
from aimass_shared.errors import ConflictError, StateCorruptError

RUN, SETTINGS = "run.json", "run.toml"
METRICS, TABLE = "metrics.json", "metrics.parquet"
PACKAGES = ("aimass", "numpy", "torch", "safetensors", "pyarrow")
FREE = {"data", "device", "distributed", "threads", "checkpoint"}
"""Settings that a resumed run may change: where it computes, not what."""


class Run(msgspec.Struct, frozen=True):
    """What a training was asked. `versions`: of Python and of the packages that computed it."""

    recipe: str
    settings: RunSettings
    versions: dict[str, str]


class RunDirectory:
    """A training's directory; nothing is read or written before it is asked to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.model = path / "model"

    @property
    def finished(self) -> bool:
        """Whether the model is there, whole."""
        return (self.model / INFO).is_file()

    def check(self, recipe: str, settings: RunSettings, *, resume: bool) -> None:
        """That the directory is free for a run, or holds the one that is to go on.

        Raises:
            ConflictError: there is a run and it is not to be resumed, or it was asked otherwise.
            StateCorruptError: there is one whose description is damaged.
        """
        old = self.found()
        if old is not None and not resume:
            raise ConflictError(
                f"{self.path} holds a run: --resume goes on with it; else name another directory"
            )
        if old is not None:
            _check_same(old, recipe, settings)

    def begin(self, recipe: str, settings: RunSettings) -> None:
        """Take the directory for a run, or for going on with the one that is in it.

        Raises:
            StorageError: the disk refuses.
        """
        versions = {name: metadata.version(name) for name in PACKAGES}
        run = Run(recipe, settings, {"python": platform.python_version(), **versions})
        with refused(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / SETTINGS, as_toml(msgspec.to_builtins(settings)).encode())
        write_whole(self.path / RUN, _json(run))

    def record(self, rows: Sequence[Row], model: TrainedModel | None = None) -> None:
        """Write how the training went so far; figures when there is a model."""
        report: dict[str, Any] = {"looks": rows}
        if model is not None:
            report |= {"model": model.id, "metrics": model.metrics}
        write_whole(self.path / METRICS, _json(report))
        columns = {name: [getattr(row, name) for row in rows] for name in Row.__struct_fields__}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=_SCHEMA), sink)
        write_whole(self.path / TABLE, sink.getvalue().to_pybytes())

    def finish(self, rows: Sequence[Row], model: TrainedModel) -> None:
        """Write metrics, plots and, last, the model."""
        self.record(rows, model)
        (self.path / "plots").mkdir(exist_ok=True)
        for name, picture in plotted(rows).items():
            write_whole(self.path / "plots" / name, picture)
        model.save(self.model)

    @property
    def plots(self) -> list[Path]:
        """Pictures of a finished run."""
        return sorted((self.path / "plots").glob("*.png"))

    def found(self) -> Run | None:
        """What the run in this directory was asked, None where there is no run.

        Raises:
            StateCorruptError: its description is damaged.
        """
        try:
            return msgspec.json.decode((self.path / RUN).read_bytes(), type=Run)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise StateCorruptError(f"{self.path / RUN} cannot be read: {error}") from error


def _check_same(old: Run, recipe: str, settings: RunSettings) -> None:
    if old.recipe != recipe:
        raise ConflictError(f"this is a run of recipe {old.recipe}, not of {recipe}")
    odd = [
        name
        for name in settings.__struct_fields__
        if name not in FREE and getattr(old.settings, name) != getattr(settings, name)
    ]
    if odd:
        raise ConflictError(
            f"the run was begun with another {', '.join(odd)}: leave these out to go on with it,"
            f" or name another directory; it may change {', '.join(sorted(FREE))}"
        )


def as_toml(table: Mapping[str, Any]) -> str:
    """Settings as a TOML file: values first, then a section for each table."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    sections = {key: value for key, value in table.items() if isinstance(value, dict)}
    lines = [*_lines(plain)]
    for name, section in sections.items():
        lines += ["", f"[{name}]", *_lines(section)]
    return "\n".join(lines) + "\n"


def _lines(table: Mapping[str, Any]) -> Iterator[str]:
    return (f"{_key(key)} = {_value(value)}" for key, value in table.items() if value is not None)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(_lines(value))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    plain = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if plain else json.dumps(name, ensure_ascii=False)


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value))


_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        *((name, pa.float64()) for name in Row.__struct_fields__ if name != "step"),
    ]
)
