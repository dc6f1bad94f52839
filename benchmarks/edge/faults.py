"""Requests to a device whose cloud is asked first and fails: who is answered, and how late.

The cloud is a process of its own on a real socket, the device a real predictor with the real
hand-off. The breaker never opens in one half of the requests; in the other it works as it ships.
"""

import asyncio
import gc
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from aimass_edge.config import BoardSettings, CapacitySettings, HandoffSettings
from aimass_edge.handoff import Handoff
from aimass_edge.predict import Predictor
from aimass_shared.errors import AimassError
from aimass_shared.inference import InferRequest
from aimass_shared.manifest import Manifest, SliceEntry
from aimass_shared.slices import SliceCost, SliceSpec
from benchmarks.children.tiny import CONTRACT, SHAPE
from benchmarks.harness.processes import Child
from benchmarks.models.table import Row, at_least, at_most

MODEL: Final = Path(__file__).parents[2] / "tests" / "edge" / "data" / "monitor.onnx"
FAULTS: Final = ("refuse", "hang", "drip", "reset", "slow", "busy")
REQUESTS, QUICK = 10_000, 240
CALLERS: Final = 8
DEADLINE_MS: Final = 150
RECOVERY_S: Final = 5.0
ALWAYS: Final = 1_000_000
"""Failures to open the breaker: never."""


@dataclass
class Seen:
    """What became of requests."""

    latency_ms: list[float] = field(default_factory=list)
    local: int = 0
    cloud: int = 0
    unanswered: int = 0

    def share_in_time(self) -> float:
        answered = len(self.latency_ms) + self.unanswered
        return sum(ms <= DEADLINE_MS for ms in self.latency_ms) / max(1, answered)


def measure(quick: bool) -> list[Row]:  # noqa: FBT001  as every benchmark here
    """All faults, breaker shut and as it ships; then how fast hand-off comes back."""
    return asyncio.run(_measure((QUICK if quick else REQUESTS) // (2 * len(FAULTS))))


async def _measure(requests: int) -> list[Row]:
    rows: list[Row] = []
    with Child("faulty_cloud") as cloud:
        url = f"http://127.0.0.1:{cloud.hear()['port']}"
        for name, failures in (("breaker never opens", ALWAYS), ("breaker as it ships", 3)):
            for fault in FAULTS:
                rows += await _fault(cloud, url, (name, fault, failures), requests)
        for fault in FAULTS:
            rows.append(await _recovery(cloud, url, fault))
    return rows


async def _fault(cloud: Child, url: str, case: tuple[str, str, int], requests: int) -> list[Row]:
    name, fault, failures = case
    async with device(url, failures) as predictor:
        cloud.ask("ok")
        await ask(predictor, Seen(), CALLERS)
        cloud.ask(fault)
        seen = Seen()
        each = -(-requests // CALLERS)
        await asyncio.gather(*(ask(predictor, seen, each) for _ in range(CALLERS)))
        failed = predictor.counts.hand_offs_failed
    label = f"{fault}, {name}, {each * CALLERS} requests"
    p99 = float(np.percentile(seen.latency_ms, 99)) if seen.latency_ms else np.inf
    return [
        at_least(Row(label, "ours", "answered by the deadline", seen.share_in_time()), 1.0),
        at_most(Row(label, "ours", "without an answer", float(seen.unanswered)), 0.0),
        Row(label, "ours", "hand-offs that failed", float(failed)),
        Row(label, "ours", "p99 ms", p99),
        Row(label, "ours", "most ms", max(seen.latency_ms, default=np.inf)),
    ]


async def _recovery(cloud: Child, url: str, fault: str) -> Row:
    """Seconds from the end of a fault to the first answer of the cloud."""
    async with device(url, 3) as predictor:
        cloud.ask(fault)
        await ask(predictor, Seen(), 20)
        cloud.ask("ok")
        started, seen = time.perf_counter(), Seen()
        while not seen.cloud and time.perf_counter() - started < 2 * RECOVERY_S:
            await ask(predictor, seen, 1)
            await asyncio.sleep(0.01)
        took = time.perf_counter() - started if seen.cloud else np.inf
    return at_most(
        Row(f"{fault}, then well", "ours", "s until the cloud answers", took), RECOVERY_S
    )


async def ask(predictor: Predictor, seen: Seen, requests: int) -> None:
    """One caller: its next request as soon as the last one is answered."""
    values = np.full(SHAPE, 2.0, np.float32)
    inputs = {"values": values, "mask": np.ones_like(values)}
    request = InferRequest(model="tiny", inputs=inputs, deadline_ms=DEADLINE_MS)
    for _ in range(requests):
        began = time.perf_counter()
        try:
            answer = await predictor.infer(request)
        except AimassError:
            seen.unanswered += 1
            continue
        seen.latency_ms.append((time.perf_counter() - began) * 1e3)
        seen.local += answer.parameters["place"] == "local"
        seen.cloud += answer.parameters["place"] == "cloud"


@asynccontextmanager
async def device(url: str, failures_to_open: int) -> AsyncIterator[Predictor]:
    """A predictor with the tiny model that asks its cloud first."""
    settings = HandoffSettings(policy="cloud-first", failures_to_open=failures_to_open)
    cost = SliceCost(model_bytes=508, memory_mib=1.0, reference_ms=0.1, val_error=0.5)
    entry = SliceEntry(SliceSpec(1.0, "fp32"), cost, (), 1e-4)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MODEL, Path(folder) / "model.onnx")
        async with (
            Handoff(url, settings, bearer=lambda: "") as way,
            Predictor(BoardSettings(), CapacitySettings(), cloud=way) as predictor,
        ):
            manifest = Manifest("r1", "tiny", CONTRACT, (entry,), 0)
            await predictor.activate(manifest, entry, Path(folder))
            gc.collect()
            gc.freeze()  # as the agent does when it is complete
            yield predictor
