"""Devices as functions, and a small model with one elastic axis for each kind of parameter."""

import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aimass_cloud.federation.plans import Nesting
from aimass_cloud.federation.rounds import Rounds
from aimass_cloud.federation.transport import Handler, LocalTransport
from aimass_cloud.store import Store
from aimass_shared.messages import RoundReply, RoundTask
from aimass_shared.updates import decode, encode

Arrays = dict[str, NDArray[Any]]


Make = Callable[[dict[str, Handler]], Rounds]


class Devices:
    """Makes handlers for `LocalTransport`; remembers the tasks and arrays that came."""

    def __init__(self) -> None:
        self.seen: list[tuple[RoundTask, Arrays]] = []
        self.release = threading.Event()

    def adds(self, amount: float, examples: int) -> Handler:
        """A healthy device: every parameter that it got grows by an amount."""

        def handle(task: RoundTask, blob: bytes) -> tuple[RoundReply, bytes]:
            arrays = decode(blob).arrays
            self.seen.append((task, arrays))
            return answer(task, {k: np.full_like(v, amount) for k, v in arrays.items()}, examples)

        return handle

    def sends(self, change: Callable[[RoundTask], Arrays], examples: int = 1) -> Handler:
        """A device that sends what a test wants."""

        def handle(task: RoundTask, blob: bytes) -> tuple[RoundReply, bytes]:
            self.seen.append((task, decode(blob).arrays if blob else {}))
            return answer(task, change(task), examples)

        return handle

    def fails(self, code: str, why: str) -> Handler:
        """A device that says why it cannot."""
        return lambda task, _: (RoundReply(task=task.task, ok=False, code=code, why=why), b"")

    def dead(self) -> Handler:
        """A device that never answers."""
        return lambda _task, _blob: None

    def late(self, amount: float) -> Handler:
        """A device that answers once `release` is set."""
        healthy = self.adds(amount, 1)

        def handle(task: RoundTask, blob: bytes) -> tuple[RoundReply, bytes] | None:
            self.release.wait(10)
            return healthy(task, blob)

        return handle


def answer(task: RoundTask, change: Arrays, examples: int) -> tuple[RoundReply, bytes]:
    raw = encode(change, {"task": task.task})
    reply = RoundReply(
        task=task.task,
        ok=True,
        size=len(raw),
        examples=examples,
        metrics={"loss": float(examples)},
    )
    return reply, raw


def leading(name: str, full_shape: tuple[int, ...], width: float) -> tuple[slice, ...]:
    """`w` shrinks in both axes, `b` in its only one, `fixed` never."""
    if name == "fixed":
        return tuple(slice(0, size) for size in full_shape)
    return tuple(slice(0, round(size * width)) for size in full_shape)


@pytest.fixture
def devices() -> Devices:
    return Devices()


@pytest.fixture
def nesting() -> Nesting:
    return leading


@pytest.fixture
def model() -> Arrays:
    return {
        "w": np.arange(16, dtype=np.float32).reshape(4, 4),
        "b": np.zeros(4, np.float32),
        "fixed": np.ones(3, np.float32),
    }


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Poll from a thread that has no event loop."""

    def wait(predicate: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not predicate():
            assert time.monotonic() < end, "not within 10 s"
            time.sleep(0.01)

    return wait


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite+aiosqlite:///{tmp_path / 'aimass.db'}") as opened:
        await opened.migrate()
        yield opened


@pytest.fixture
def make(store: Store, tmp_path: Path) -> Make:
    def build(handlers: dict[str, Handler]) -> Rounds:
        return Rounds(store, LocalTransport(handlers), tmp_path / "runs")

    return build
