"""What a slice is, what it costs, and which one fits a device.

A slice is a sub-network: the leading share of every layer's channels (`width`), up to or from a
cut of the graph (`cut`), in one number format (`precision`).
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from aimass_shared.errors import UnfitReleaseError

Precision = Literal["fp32", "fp16", "int8", "int8-trt", "int8-dyn"]
"""Number formats. int8 has two artifacts, since no runtime runs the other's well: `int8` for ONNX
Runtime on processors, `int8-trt` for TensorRT. `int8-dyn` finds its ranges while it runs."""
WHOLE = "whole"
BUILDS, REFUSED = "builds", "refused"


class SliceSpec(msgspec.Struct, frozen=True, order=True):
    """Which part of a model, in which number format. `cut` is "whole" when nothing is cut off."""

    width: float
    precision: Precision
    cut: str = WHOLE

    @property
    def name(self) -> str:
        """Name of the slice in files, topics and tables, such as `w0.50-int8`."""
        suffix = "" if self.cut == WHOLE else f"-{self.cut}"
        return f"w{self.width:.2f}-{self.precision}{suffix}"


class SliceCost(msgspec.Struct, frozen=True):
    """What a slice costs, measured where it was made.

    Attributes:
        model_bytes: size of the model file.
        memory_mib: resident memory that the runtime needs for it, at most.
        reference_ms: fastest of many runs over one window on one core of the coordinator.
        val_error: error on held-back data in the recipe's own measure, smaller is better: squared
            standard deviations, share of wrong labels, 1 - correlation, 1 - NDCG.
        tensorrt: "builds", or "refused (operator: reason)"; "" where nobody tried.
    """

    model_bytes: int
    memory_mib: float
    reference_ms: float
    val_error: float
    tensorrt: str = ""


class Board(msgspec.Struct, frozen=True):
    """What a device offers to a model.

    Attributes:
        name: profile name, such as `raspberry-pi-5`.
        memory_mib: memory that models may take.
        cpu_time_factor: how many times longer than the reference one window takes here.
        window_budget_ms: time that one window may take, so that the device keeps up.
        precisions: number formats that its runtime executes well, best first.
        tensorrt: whether TensorRT runs its models: what TensorRT refuses is not for it.
    """

    name: str
    memory_mib: float
    cpu_time_factor: float
    window_budget_ms: float
    precisions: tuple[Precision, ...] = ("int8", "fp32")
    tensorrt: bool = False

    def predicted_ms(self, cost: SliceCost) -> float:
        """Time of one window on this board, from the reference measurement."""
        return cost.reference_ms * self.cpu_time_factor


def choose(board: Board, offers: Mapping[SliceSpec, SliceCost]) -> SliceSpec:
    """The slice that a board should run.

    The widest of those that keep within the board's time for a window, in the format it likes
    best. Memory is a hard limit; time is not: a board that is too slow for every slice gets the
    fastest one and hands off what is too much. The head of a cut answers nothing by itself, so it
    is never chosen.

    Args:
        board: what the device offers.
        offers: the slices of a release with their cost.

    Raises:
        UnfitReleaseError: no slice fits its memory and formats; the detail names the smallest.
    """
    whole = {spec: cost for spec, cost in offers.items() if spec.cut == WHOLE}
    possible = {spec: cost for spec, cost in whole.items() if fits(board, spec, cost)}
    if not possible:
        raise UnfitReleaseError(_too_much(board, whole))
    timely = [spec for spec, cost in possible.items() if is_timely(board, cost)]
    if timely:
        return max(timely, key=lambda spec: (spec.width, -board.precisions.index(spec.precision)))
    return min(possible, key=lambda spec: (possible[spec].reference_ms, spec))


def beside(
    board: Board, offers: Mapping[SliceSpec, SliceCost], chosen: SliceSpec, *, most: int
) -> list[SliceSpec]:
    """Narrower slices that a board can hold beside the one that it runs, widest first.

    One of a width, in the format that the board likes best; the narrowest ones, which are the
    fastest, where not all have room.

    Args:
        board: what the device offers.
        offers: the slices of a release with their cost.
        chosen: what it runs.
        most: how many.
    """
    left_mib = board.memory_mib - offers[chosen].memory_mib
    narrower = [
        spec
        for spec, cost in offers.items()
        if spec.cut == WHOLE and spec.width < chosen.width and fits(board, spec, cost)
    ]
    narrower.sort(key=lambda spec: (spec.width, board.precisions.index(spec.precision)))
    found: dict[float, SliceSpec] = {}
    for spec in narrower:
        if spec.width not in found and len(found) < most and offers[spec].memory_mib <= left_mib:
            found[spec.width] = spec
            left_mib -= offers[spec].memory_mib
    return list(reversed(found.values()))


def _too_much(board: Board, offers: Mapping[SliceSpec, SliceCost]) -> str:
    if not offers:
        return f"the release has no whole slice, which {board.name} needs"
    smallest = min(offers, key=lambda spec: (offers[spec].memory_mib, spec))
    return (
        f"no slice fits {board.name}: the smallest, {smallest.name}, needs"
        f" {offers[smallest].memory_mib:.0f} MiB; the board gives {board.memory_mib:.0f} MiB"
        f" and runs {', '.join(board.precisions)}{', what TensorRT builds' * board.tensorrt}"
    )


def fits(board: Board, spec: SliceSpec, cost: SliceCost) -> bool:
    """Whether a board can run a slice at all: its memory, number formats and runtime."""
    refused = board.tensorrt and cost.tensorrt.startswith(REFUSED)
    return (
        spec.precision in board.precisions and cost.memory_mib <= board.memory_mib and not refused
    )


def is_timely(board: Board, cost: SliceCost) -> bool:
    """Whether a window takes no longer than the board has for it."""
    return board.predicted_ms(cost) <= board.window_budget_ms
