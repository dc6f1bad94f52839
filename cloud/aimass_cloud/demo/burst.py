"""A burst of requests at one agent's inference endpoint, as its clients see it.

Every request is answered, refused with a code, or lost (no answer at all); an answer after the
deadline is late. The clock is the client's: from the moment the request is sent.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_cloud.demo.report import HandoffReport
from aimass_cloud.demo.together import together
from aimass_shared.inference import (
    HEADER_LENGTH,
    InferRequest,
    decode_response,
    encode_request,
)

SLACK_MS = 50.0
"""What the clients' own queueing on a busy machine may add before an answer counts as late."""
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Burst:
    """What is sent: `requests` in all, `together` at any time, each with one batch of windows."""

    url: str
    model: str
    values: NDArray[np.float32]
    requests: int
    together: int
    deadline_ms: int


class Met(NamedTuple):
    """What one request met: the place that answered, or the code that refused, or "lost"."""

    place: str
    code: str
    ms: float


class _Problem(msgspec.Struct):
    error: str = ""
    code: str = "http"


async def fire(burst: Burst) -> list[Met]:
    """Send the burst and wait for every answer."""
    body, headers = encode_request(
        InferRequest(
            model=burst.model,
            inputs={"values": burst.values, "mask": np.ones_like(burst.values)},
            deadline_ms=burst.deadline_ms,
            binary_output=True,
        )
    )
    limits = httpx.Limits(max_connections=burst.together)
    turns = asyncio.Semaphore(burst.together)
    url = f"{burst.url}/v2/models/{burst.model}/infer"
    async with httpx.AsyncClient(limits=limits, timeout=PATIENCE_S) as client:

        async def one() -> Met:
            async with turns:
                return await _ask(client, httpx.Request("POST", url, content=body, headers=headers))

        return await together(one() for _ in range(burst.requests))


async def _ask(client: httpx.AsyncClient, request: httpx.Request) -> Met:
    start = time.perf_counter()
    try:
        answer = await client.send(request)
    except httpx.HTTPError:
        return Met("lost", "", _ms(start))
    if answer.is_error:
        problem = msgspec.json.decode(answer.content, type=_Problem)
        return Met("refused", problem.code, _ms(start))
    length = answer.headers.get(HEADER_LENGTH)
    response = decode_response(answer.content, int(length) if length else None)
    return Met(str(response.parameters["place"]), "", _ms(start))


def _ms(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def judge(burst: Burst, met: list[Met]) -> HandoffReport:
    """Count the outcomes."""
    places = Counter(one.place for one in met)
    answered = [one.ms for one in met if one.place in {"local", "cloud"}]
    return HandoffReport(
        requests=burst.requests,
        local=places["local"],
        cloud=places["cloud"],
        refused=places["refused"],
        late=sum(one.ms > burst.deadline_ms + SLACK_MS for one in met),
        lost=places["lost"],
        deadline_ms=burst.deadline_ms,
        p50_ms=_percentile(answered, 50),
        p99_ms=_percentile(answered, 99),
        codes=dict(Counter(one.code for one in met if one.code)),
    )


def _percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else 0.0
