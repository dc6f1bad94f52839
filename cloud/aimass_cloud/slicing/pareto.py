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
    slice of the widest is always among them. Who is left out is beaten by one that is kept.
    """
    able = [one for one in candidates if one.spec.precision in CLASSES[device]]
    widest = max((one.spec.width for one in able), default=0.0)
    kept = [one for one in able if one.spec == SliceSpec(widest, "fp32")]
    # Smaller files first: nobody is beaten by a larger one, so whoever beats comes before.
    for one in sorted((one for one in able if one not in kept), key=_order):
        if not any(beats(other, one, device) for other in kept):
            kept.append(one)
    missing = {one.spec.width for one in able} - {one.spec.width for one in kept}
    at = {width: [one for one in able if one.spec.width == width] for width in missing}
    return [*kept, *(min(ones, key=_order) for ones in at.values())]


def beats(first: Figures, second: Figures, device: DeviceClass) -> bool:
    """Whether a slice is no worse in anything.

    Between number formats of one width a little loss of error or time is none; between widths the
    other one must be better by more than that, since widths differ by what was trained.
    """
    slack = max(first.slack, second.slack)
    same = first.spec.width == second.spec.width
    return (
        first.bytes <= second.bytes
        and first.memory_mib <= second.memory_mib
        and first.error <= second.error + (slack if same else -slack)
        and (device != "cpu" or first.ms <= second.ms * (CLOSE if same else 1.0))
    )


def _order(one: Figures) -> tuple[float, ...]:
    return (one.bytes, one.memory_mib, one.ms, one.error, -one.spec.width)
