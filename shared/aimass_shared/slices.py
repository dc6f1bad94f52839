"""What a slice is, what it costs, and which one fits a device.

A slice is a sub-network: the leading share of every layer's channels (`width`), up to or from a
cut of the graph (`cut`), in one number format (`precision`).
"""

from typing import Literal

import msgspec

from aimass_shared.errors import UnfitReleaseError

Precision = Literal["fp32", "int8"]
WHOLE = "whole"


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
        val_mse: error on validation data, in squared standard deviations.
    """

    model_bytes: int
    memory_mib: float
    reference_ms: float
    val_mse: float


class Board(msgspec.Struct, frozen=True):
    """What a device offers to a model.

    Attributes:
        name: profile name, such as `raspberry-pi-5`.
        memory_mib: memory that models may take.
        cpu_time_factor: how many times longer than the reference one window takes here.
        window_budget_ms: time that one window may take, so that the device keeps up.
        precisions: number formats that its runtime executes well, best first.
    """

    name: str
    memory_mib: float
    cpu_time_factor: float
    window_budget_ms: float
    precisions: tuple[Precision, ...] = ("int8", "fp32")

    def predicted_ms(self, cost: SliceCost) -> float:
        """Time of one window on this board, from the reference measurement."""
        return cost.reference_ms * self.cpu_time_factor


def choose(board: Board, offers: dict[SliceSpec, SliceCost]) -> SliceSpec:
    """The slice that a board should run: widest that fits, then most precise format it likes.

    Args:
        board: what the device offers.
        offers: the slices of a release with their cost.

    Raises:
        UnfitReleaseError: no slice fits; the detail names the smallest one and what it needs.
    """
    fitting = [spec for spec, cost in offers.items() if fits(board, spec, cost)]
    if fitting:
        return max(fitting, key=lambda spec: (spec.width, -board.precisions.index(spec.precision)))
    smallest = min(offers, key=lambda spec: (offers[spec].reference_ms, offers[spec].memory_mib))
    cost = offers[smallest]
    raise UnfitReleaseError(
        f"no slice fits {board.name}: the smallest, {smallest.name}, needs"
        f" {cost.memory_mib:.0f} MiB and {board.predicted_ms(cost):.1f} ms a window;"
        f" the board gives {board.memory_mib:.0f} MiB and {board.window_budget_ms:.1f} ms"
    )


def fits(board: Board, spec: SliceSpec, cost: SliceCost) -> bool:
    """Whether a slice stays within the memory and the time of a board."""
    return (
        spec.precision in board.precisions
        and cost.memory_mib <= board.memory_mib
        and board.predicted_ms(cost) <= board.window_budget_ms
    )
