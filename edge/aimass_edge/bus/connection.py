"""A connection to a broker that stays: link after link, with the subscriptions made again.

It keeps nothing on disk: what must not be lost goes through the outbox, which re-sends.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import final

from aimass_edge.bus.inbox import Inbox
from aimass_edge.bus.link import Link, unavailable
from aimass_edge.bus.options import BusOptions, Inbound, Will
from aimass_shared.errors import BodyTooLargeError, BrokerUnavailableError

_log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 10.0
STABLE_S = 5.0
_JITTER = random.SystemRandom()

Callback = Callable[[], Awaitable[None]]


@final
class Bus:
    """A connection to one broker that is made again for ever. `async with` is its lifetime.

    It never raises because the broker is away. One reader at a time may iterate `messages()`.
    """

    def __init__(
        self, options: BusOptions, *, will: Callable[[], Will | None] | None = None
    ) -> None:
        self._options = options
        self._will = will
        self._filters: dict[str, int] = {}
        self._on_connect: list[Callback] = []
        self._on_disconnect: list[Callback] = []
        self._link: Link | None = None
        self._inbox = Inbox(options.queue_limit)
        self._task: asyncio.Task[None] | None = None
        self._late: set[asyncio.Task[None]] = set()
        self._unsent = 0

    async def __aenter__(self) -> "Bus":
        """Begin to connect; does not wait for the broker."""
        self._inbox.open()
        self._task = asyncio.create_task(self._keep_connected())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect and end `messages()`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._inbox.close()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the present connection."""
        return self._link is not None

    @property
    def dropped(self) -> int:
        """Received messages that were not handed over: queue full, or over the size limit."""
        return self._inbox.dropped

    @property
    def unsent(self) -> int:
        """QoS 0 messages that were not sent because the network was slower than they came."""
        return self._unsent

    def on_connect(self, callback: Callback) -> None:
        """Call `callback` after each connect, when the subscriptions have been answered."""
        self._on_connect.append(callback)

    def on_disconnect(self, callback: Callback) -> None:
        """Call `callback` after each loss of a connection that was up."""
        self._on_disconnect.append(callback)

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe now if connected, and again on each connect."""
        self._filters[topic_filter] = qos
        if self._link is not None:
            late = asyncio.create_task(self._subscribe_late(self._link, topic_filter))
            self._late.add(late)
            late.add_done_callback(self._late.discard)

    async def messages(self) -> AsyncIterator[Inbound]:
        """Messages as they come, until the bus is closed.

        A QoS 1 message is acknowledged when the reader asks for the next one, so after a crash the
        broker sends the one that was being handled again.
        """
        async for batch in self._inbox.batches():
            for message, done in batch:
                yield message
                if done is not None:
                    done()

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> None:
        """Send a message; at QoS 1 return only after the broker has acknowledged it.

        Raises:
            BrokerUnavailableError: not connected, lost before the acknowledgement, or refused.
            BodyTooLargeError: over our limit or the broker's.
        """
        link = self._link
        if link is None:
            raise unavailable("not connected")
        # 64: the rest of the packet (header, properties) is smaller.
        if len(payload) + len(topic) + 64 > link.max_packet_bytes:
            raise BodyTooLargeError(
                f"message to {topic} has {len(payload)} bytes, the limit is {link.max_packet_bytes}"
            )
        if qos:
            await link.send_sure(topic, payload, retain=retain)
        elif not link.send_quick(topic, payload, retain=retain):
            self._unsent += 1

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._live_once()
            except BrokerUnavailableError as error:
                _log.log(logging.DEBUG if failures else logging.WARNING, "%s", error)
            stable = time.monotonic() - began > STABLE_S and failures == 0
            failures = 0 if stable else failures + 1
            await asyncio.sleep(_backoff_s(failures))

    async def _live_once(self) -> None:
        link = Link(self._options, self._will() if self._will is not None else None, self._inbox)
        try:
            await link.open()
            await self._subscribe_all(link)
            self._link = link
            _log.info("connected to %s:%d", self._options.host, self._options.port)
            await _call_all(self._on_connect)
            await asyncio.wait({link.lost})
            _log.warning("%s:%d: %s", self._options.host, self._options.port, link.lost.result())
        finally:
            was_up, self._link = self._link is not None, None
            await link.close()
            if was_up:
                await _call_all(self._on_disconnect)

    async def _subscribe_all(self, link: Link) -> None:
        """No await after the last look at the filters, so none that comes meanwhile is missed."""
        done: set[str] = set()
        while missing := [name for name in self._filters if name not in done]:
            await link.subscribe(missing[0], self._filters[missing[0]])
            done.add(missing[0])

    async def _subscribe_late(self, link: Link, topic_filter: str) -> None:
        with contextlib.suppress(BrokerUnavailableError):  # the next connect does it
            await link.subscribe(topic_filter, self._filters[topic_filter])


async def _call_all(callbacks: list[Callback]) -> None:
    for callback in callbacks:
        await _call(callback)


async def _call(callback: Callback) -> None:
    try:
        await callback()
    except BrokerUnavailableError as error:
        _log.debug("in a connection callback: %s", error)
    except Exception:  # noqa: BLE001 - a task's edge: a caller's bug must not end the connection
        _log.exception("a connection callback failed")


def _backoff_s(failures: int) -> float:
    """Full jitter, so that a fleet does not come back in one instant."""
    most = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures, 16))
    return _JITTER.uniform(FIRST_BACKOFF_S / 2, most)
