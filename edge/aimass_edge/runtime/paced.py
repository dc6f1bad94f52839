"""A session that takes as long as a weaker board would: one machine stands in for many boards.

Each run is stretched by sleeping in the calling thread, which was measured to be the faithful way
(an additive model within 2 %; a CPU quota comes in bursts). It is for demonstrations and tests; no
real board uses it.
"""

import time
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from aimass_edge.runtime.session import Arrays, Session
from aimass_shared.manifest import TensorSpec


class PacedSession:
    """A session whose runs take `factor` times their CPU time (1 or less: as they are).

    The CPU time of the calling thread is what is stretched, not the wall time: on a busy machine
    the latter would multiply the delays of others as well.
    """

    def __init__(
        self,
        inner: Session,
        factor: float,
        *,
        clock: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner = inner
        self._factor = factor
        self._clock = clock
        self._sleep = sleep

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` needs."""
        return self._inner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` gives back."""
        return self._inner.outputs

    @property
    def provider(self) -> str:
        """The provider of the session that is paced."""
        return self._inner.provider

    @property
    def waits(self) -> bool:
        """It sleeps for the board's sake."""
        return True

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run once, then sleep for the rest of the board's time."""
        start = self._clock()
        results = self._inner.run(feeds)
        spare = (self._clock() - start) * (self._factor - 1.0)
        if spare > 0:
            self._sleep(spare)
        return results

    def close(self) -> None:
        """Free the model."""
        self._inner.close()
