"""Settings of one training run: what a TOML file may say, and what it is without one.

Every recipe has its own defaults of the same struct; `options` are those that one recipe alone
knows (a window, a length), checked by it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from aimass_cloud.models.nesting import WIDTHS
from aimass_shared.errors import InvalidSettingError
from aimass_shared.settings import load

Config = TypeVar("Config", bound=msgspec.Struct)

Size = Literal["tiny", "base", "large", "xl"]
Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Optimizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How weights change.

    Attributes:
        rate: the highest learning rate.
        decay: of the weights; AdamW takes it off them, Adam and SGD add it to the gradient.
        momentum: of SGD.
        name: "muon" turns steps of matrices and filters (`training.muon`); weights must be whole.
    """

    name: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-2
    decay: Annotated[float, msgspec.Meta(ge=0)] = 1e-3
    momentum: Share = 0.9


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the learning rate goes: up in `warm_up` steps, and down to 0 at the end as `name` says.

    Attributes:
        name: "cosine" is half a cosine over all steps, "linear" a straight line from the end of the
            warm-up, "constant" stays.
    """

    name: Literal["cosine", "linear", "constant"] = "cosine"
    warm_up: Annotated[int, msgspec.Meta(ge=0)] = 30


class RunSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One training run.

    Attributes:
        data: path or address of the data, "" for those that ship with the recipe.
        seed: the same seed gives the same model on the same machine.
        size: of the network, by the recipe's table.
        loss: one of the recipe's, by name; "" is its own.
        steps: of the optimizer, at most. batch: samples of one step, over all processes.
        accumulate: parts that a batch is cut into, one after the other, to save memory.
        precision: of the forward pass; weights and optimizer stay fp32. fp16 needs a GPU.
        clip_norm: largest norm of a gradient; 0 is none.
        nesting: how widths are trained together (docs/adr).
        widths: those that are trained, the full one first; others are not usable.
        check: steps between two looks at the held-back error. patience: looks without gain.
        average: decay of an average of the weights, which is then what is looked at; 0 is none.
        checkpoint: steps between two checkpoints of a run that has a directory.
        device: "auto" is a GPU where there is one.
        threads: of torch on the CPU; another number may change the last bits.
        distributed: how processes share one training. "ddp": each holds all weights. "fsdp": each
            holds its part of weights, gradients and optimizer state between steps.
        options: of the recipe alone.
    """

    data: str = ""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    size: Size = "base"
    steps: Count = 200
    batch: Count = 32
    accumulate: Count = 1
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: str = ""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_norm: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    nesting: Literal["sandwich", "ordered", "distil"] = "sandwich"
    widths: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)] = WIDTHS
    check: Count = 50
    patience: Count = 5
    average: Share = 0.0
    checkpoint: Count = 200
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Count = 1
    distributed: Literal["ddp", "fsdp"] = "ddp"
    options: dict[str, Any] = {}


def chosen(
    base: RunSettings,
    *,
    own: RunSettings | None = None,
    files: Sequence[Path] = (),
    given: Mapping[str, object] | None = None,
) -> RunSettings:
    """Settings of a run: those of the recipe, then files, then what was given.

    Args:
        base: the recipe's.
        own: the recipe's for data that do not ship with it, if they are others.
        files: TOML, in order.
        given: values by dotted key (`optimizer.rate`); those that are None were not given.

    Raises:
        UnknownSettingError: there is no such setting; the detail suggests the nearest.
        InvalidSettingError: a value of the wrong type or range, or a file that cannot be read.
    """
    run = load(RunSettings, prefix="", files=files, environ={}, overrides=given, base=base)
    if own is None or not run.data:
        return run
    return load(RunSettings, prefix="", files=files, environ={}, overrides=given, base=own)


def configured(run: RunSettings, sizes: Mapping[str, Config]) -> Config:
    """The configuration of a run: that of its size, with its options put over it.

    Raises:
        InvalidSettingError: the recipe has no such size or option, or the option is of another
            type; the detail lists what there is.
    """
    if run.size not in sizes:
        raise InvalidSettingError(f"no size {run.size!r} here; there are: {', '.join(sizes)}")
    config = sizes[run.size]
    known = type(config).__struct_fields__
    if odd := sorted(set(run.options) - set(known)):
        raise InvalidSettingError(f"unknown options {odd}; this recipe has: {', '.join(known)}")
    try:
        return msgspec.convert({**msgspec.to_builtins(config), **run.options}, type(config))
    except msgspec.ValidationError as error:
        raise InvalidSettingError(f"options of the run: {error}") from error
