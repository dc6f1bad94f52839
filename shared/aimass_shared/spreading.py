"""Requests that become many samples: long inputs, and answers that are to be explained.

Such a request is cut into requests of a few samples, which are answered in parallel like any other
(here or handed off, inside capacity and by the same deadline), and their answers are put together.
The coordinator and the agent share this.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared import explaining, sliding
from aimass_shared.errors import BadTensorError, DeadlineExceededError
from aimass_shared.inference import InferRequest, InferResponse
from aimass_shared.manifest import Contract

TOGETHER = 4
OWN_PARAMETERS = (sliding.PARAMETER, explaining.PARAMETER)

Arrays = dict[str, NDArray[Any]]
Answer = Callable[[InferRequest], Awaitable[InferResponse]]


class Spread(Protocol):
    """One request as many samples."""

    @property
    def samples(self) -> int:
        """How many."""

    def part(self, start: int, stop: int) -> Arrays:
        """Inputs of some of them."""

    def joined(self, outputs: Arrays) -> Arrays:
        """The outputs of all as those of the request."""

    def told(self) -> dict[str, str | int]:
        """What the answer's parameters say of it."""


class Sliding:
    """A long series as overlapping windows."""

    def __init__(self, contract: Contract, inputs: Arrays, stride: int) -> None:
        """Find the windows.

        Raises:
            BadTensorError: the input is no long series of this model.
        """
        self._inputs, self._length = inputs, contract.window
        self._starts = sliding.starts_of(contract, inputs, stride)
        self.samples = len(self._starts)

    def part(self, start: int, stop: int) -> Arrays:
        """Some of the windows."""
        return sliding.windows_at(self._inputs, self._starts[start:stop], self._length)

    def joined(self, outputs: Arrays) -> Arrays:
        """Overlapping forecasts averaged, the rest window by window."""
        return sliding.merged(outputs, self._starts)

    def told(self) -> dict[str, str | int]:
        """How many windows there were."""
        return {"windows": self.samples}


class Explained:
    """A sample, and the same with each part left out."""

    def __init__(self, contract: Contract, inputs: Arrays, method: str) -> None:
        """Find the parts.

        Raises:
            BadTensorError: the method is not known, or the input cannot be explained.
        """
        if method != explaining.OCCLUSION:
            raise BadTensorError(f"no method {method!r} here; there is: {explaining.OCCLUSION}")
        self._contract = contract
        self._inputs, self._names = explaining.occluded(contract, inputs)
        self.samples = 1 + len(self._names)

    def part(self, start: int, stop: int) -> Arrays:
        """Some of the samples."""
        return {name: array[start:stop] for name, array in self._inputs.items()}

    def joined(self, outputs: Arrays) -> Arrays:
        """The answer to the whole sample, with what each part did to it."""
        return {
            **explaining.first_of(outputs),
            explaining.EXPLANATION: explaining.explained(self._contract, outputs),
            explaining.NAMES: np.array(self._names, object),
        }

    def told(self) -> dict[str, str | int]:
        """How it was explained, and how many samples that took."""
        return {"explained_by": explaining.OCCLUSION, "explained_samples": self.samples}


def asks_for_many(request: InferRequest) -> bool:
    """Whether a request is one that becomes many samples."""
    return any(name in request.parameters for name in OWN_PARAMETERS)


def spread_of(contract: Contract, request: InferRequest) -> Spread:
    """A request as many samples, which it asks for.

    Raises:
        BadTensorError: its parameters or inputs do not allow it.
    """
    stride = sliding.stride_of(request.parameters)
    method = explaining.method_of(request.parameters)
    if stride is not None and method:
        raise BadTensorError(f"give one of {' and '.join(OWN_PARAMETERS)}, not both")
    if stride is not None:
        return Sliding(contract, dict(request.inputs), stride)
    return Explained(contract, dict(request.inputs), method)


async def answered(
    spread: Spread, request: InferRequest, answer: Answer, *, batch: int, deadline_ms: float
) -> InferResponse:
    """Answer all samples of a request, `batch` at a time and some batches together.

    The parameters of the answer: `place` is "mixed" where batches were answered in different
    places, `service_ms` the time of all.

    Raises:
        DeadlineExceededError: the deadline passed before all were answered.
        AimassError: what the first batch that failed raised; the others are given up.
    """
    started = time.monotonic()
    gate = asyncio.Semaphore(TOGETHER)

    async def one(start: int) -> InferResponse:
        async with gate:
            left_ms = deadline_ms - (time.monotonic() - started) * 1e3
            if left_ms < 1:
                raise DeadlineExceededError(
                    f"{spread.samples} samples were not answered within {deadline_ms:.0f} ms"
                )
            inputs = spread.part(start, min(start + batch, spread.samples))
            return await answer(_plain(request, inputs, int(left_ms)))

    answers = await _all([one(start) for start in range(0, spread.samples, batch)])
    outputs = {
        name: np.concatenate([each.outputs[name] for each in answers])
        for name in answers[0].outputs
    }
    places = {str(each.parameters.get("place")) for each in answers}
    parameters = {
        **answers[0].parameters,
        **spread.told(),
        "place": places.pop() if len(places) == 1 else "mixed",
        "service_ms": round((time.monotonic() - started) * 1e3, 3),
    }
    return msgspec.structs.replace(
        answers[0], outputs=spread.joined(outputs), parameters=parameters, id=request.id
    )


async def _all(waiting: list[Coroutine[Any, Any, InferResponse]]) -> list[InferResponse]:
    """Answers in order; when one fails the others are cancelled before it is raised."""
    tasks = [asyncio.ensure_future(each) for each in waiting]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _plain(request: InferRequest, inputs: Arrays, left_ms: int) -> InferRequest:
    """A request for some samples, with every output and without what made it many."""
    kept = {name: value for name, value in request.parameters.items() if name not in OWN_PARAMETERS}
    return msgspec.structs.replace(
        request, inputs=inputs, outputs=(), parameters=kept, deadline_ms=left_ms
    )
