"""Which slices a release carries: of each class of devices those that no other one beats.

Classes are what runs a slice: ONNX Runtime on processors, or TensorRT. Time counts for processors
only: a coordinator has no GPU to take the other's. All figures are of held-back samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from aimass_shared.slices import Precision, SliceSpec

DeviceClass = Literal["cpu", "tensorrt"]
CLASSES: Final[Mapping[DeviceClass, tuple[Precision, ...]]] = {
    "cpu": ("fp32", "int8", "int8-dyn"),
    "tensorrt": ("fp32", "fp16", "int8-trt"),
}
"""Number formats that each class runs well."""
CLOSE: Final = 1.1
"""Times that differ by less are the same, at one width: what a shared machine can tell."""
NEAR: Final = 1.05
"""The same of bytes and memory."""
WORTH: Final = 0.8
"""Share of the float slice's bytes over which `int8-dyn` rounds too little to be one more file."""


@dataclass(frozen=True)
class Figures:
    """What a slice is judged by; smaller is better.

    Attributes:
        slack: loss of error that counts as none, between number formats of one width.
    """

    spec: SliceSpec
    error: float
    ms: float
    memory_mib: float
    bytes: int
    slack: float = 0.0


def unbeaten(candidates: Sequence[Figures], device: DeviceClass) -> list[Figures]:
    """The slices of one class that no other of them beats.

    Each width keeps one at least, since boards differ by more than any figure here says; the float
    slice of the widest is always among them. Who is left out of `able` is beaten by one that is
    kept.
    """
    ones = able(candidates, device)
    widest = max((one.spec.width for one in ones), default=0.0)
    kept = [one for one in ones if one.spec == SliceSpec(widest, "fp32")]
    # The least product of bytes and time first: who beats comes before whom it beats.
    ordered = sorted((one for one in ones if one not in kept), key=lambda one: _order(one, device))
    for one in ordered:
        if not any(beats(other, one, device) for other in kept):
            kept.append(one)
    found = {one.spec.width for one in kept}
    missing = {one.spec.width: one for one in reversed(ordered) if one.spec.width not in found}
    return [*kept, *missing.values()]


def able(candidates: Sequence[Figures], device: DeviceClass) -> list[Figures]:
    """Those that a class runs well and that are something of their own."""
    full = {one.spec.width: one.bytes for one in candidates if one.spec.precision == "fp32"}
    return [
        one
        for one in candidates
        if one.spec.precision in CLASSES[device]
        and not (
            one.spec.precision == "int8-dyn" and one.bytes > WORTH * full.get(one.spec.width, 1e18)
        )
    ]


def beats(first: Figures, second: Figures, device: DeviceClass) -> bool:
    """Whether a slice is no worse in anything.

    Between number formats of one width a little is none; between widths the other one must be
    better in error by that little, since widths differ by what was trained.
    """
    slack = max(first.slack, second.slack)
    same = first.spec.width == second.spec.width
    near, close = (NEAR, CLOSE) if same else (1.0, 1.0)
    return (
        first.bytes <= second.bytes * near
        and first.memory_mib <= second.memory_mib * near
        and first.error <= second.error + (slack if same else -slack)
        and (device != "cpu" or first.ms <= second.ms * close)
    )


def _order(one: Figures, device: DeviceClass) -> tuple[float, ...]:
    time = one.ms if device == "cpu" else 1.0
    # Of near equals not the one whose ranges nobody has tested.
    later = NEAR * CLOSE if one.spec.precision == "int8-dyn" else 1.0
    return (one.bytes * time * later, one.error, one.memory_mib, -one.spec.width)
