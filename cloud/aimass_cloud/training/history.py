"""What a training looked like over its steps, and how fast and how large it was."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import torch
from torch import Tensor

from aimass_cloud.models.relations import Change
from aimass_cloud.training.world import World

MIB = 1 << 20
RSS_UNIT = 1 if sys.platform == "darwin" else 1 << 10
"""Of what the system says of peak memory, in bytes."""


class Row(msgspec.Struct, frozen=True):
    """What a look at held-back samples found.

    Attributes:
        step: after which it was. loss: mean of the training loss since the row before, over all
            processes; None before the first step.
        held_back: what the task watches. rate: the learning rate.
        samples_per_second: of training alone, over all processes; looks and checkpoints are not in.
        peak_rss_mib: of the process that leads, since it started.
        peak_device_mib: of the GPU's memory, 0 without one.
        graph_edges: of a network that learns its graph. graph_kept: share of the edges at the look
            before that are still there. graph_moved: mean change of the weights into a node.
    """

    step: int
    loss: float | None
    held_back: float
    rate: float
    samples_per_second: float
    peak_rss_mib: float
    peak_device_mib: float = 0.0
    graph_edges: int | None = None
    graph_kept: float | None = None
    graph_moved: float | None = None

    def told(self, steps: int) -> str:
        """One line for people."""
        loss = "" if self.loss is None else f"loss {self.loss:.4f}, "
        pace = f", {self.samples_per_second:,.0f} samples/s" if self.step else ""
        graph = "" if self.graph_kept is None else f", {self.graph_kept:.0%} of the edges kept"
        return f"step {self.step}/{steps}: {loss}held-back error {self.held_back:.4f}{pace}{graph}"

    def with_graph(self, moved: Change | None) -> "Row":
        """The same row with how the graph moved, if there is one."""
        if moved is None:
            return self
        return msgspec.structs.replace(
            self,
            graph_edges=moved.edges,
            graph_kept=round(moved.kept, 4),
            graph_moved=round(moved.moved, 4),
        )


class Meter:
    """Sums up the steps between two looks."""

    def __init__(self, world: World, batch: int) -> None:
        """Begin with no steps. `batch`: samples of one, over all processes."""
        self._world, self._batch = world, batch
        self._loss = torch.zeros((), device=world.device)
        self._steps, self._began = 0, time.perf_counter()

    def add(self, loss: Tensor) -> None:
        """Count a step with its loss; nothing waits for the GPU here."""
        self._loss += loss
        self._steps += 1

    def taken(self) -> tuple[float | None, float]:
        """Mean loss and samples per second since the last call; every process must ask."""
        steps = self._steps
        loss = self._world.mean(self._loss) / steps if steps else None
        pace = self._batch * steps / (time.perf_counter() - self._began)
        self._loss.zero_()
        self._steps, self._began = 0, time.perf_counter()
        return loss, round(pace, 1)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of a block out."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began


def peak_memory(world: World) -> tuple[float, float]:
    """The most memory that this process has had, and the most of its GPU's, in MiB."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / MIB
    device = world.device
    there = torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else 0.0
    return round(own, 1), round(there, 1)
