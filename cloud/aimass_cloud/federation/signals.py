"""The transport over the fleet: MQTT carries signals and digests, HTTP carries the blobs.

Knows neither the MQTT client nor the database: the application hands in something that publishes
and something that keeps blobs, and calls `on_state` and `on_round_reply` for what devices send.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import msgspec

from aimass_cloud.federation.transport import Answer, Inbox, Invitation
from aimass_shared import messages, topics
from aimass_shared.errors import AimassError, BadUpdateError, BrokerUnavailableError
from aimass_shared.messages import DeviceState, RoundReply
from aimass_shared.updates import MAX_UPDATE_BYTES

log = logging.getLogger(__name__)

SEND_SECONDS = 10.0


class Signals(Protocol):
    """Publishes to devices."""

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Send one message, at least once.

        Raises:
            BrokerUnavailableError: the broker cannot be reached.
        """
        ...


class BlobStore(Protocol):
    """Keeps blobs that devices fetch and leave over HTTP."""

    def put(self, data: bytes) -> str:
        """Keep bytes; return their SHA-256."""
        ...

    def path(self, sha256: str) -> Path:
        """Where a blob's bytes are.

        Raises:
            NotFoundError: there is no such blob.
        """
        ...


class _Waiting(NamedTuple):
    device: str
    inbox: Inbox


class FleetTransport:
    """Invitations to enrolled devices. `async with` it in the event loop that publishes.

    Args:
        signals: the bridge to the broker. blobs: the store behind `/blobs`.
        max_update_bytes: a larger update is refused unread.
    """

    def __init__(
        self, signals: Signals, blobs: BlobStore, *, max_update_bytes: int = MAX_UPDATE_BYTES
    ) -> None:
        self._signals = signals
        self._blobs = blobs
        self._max_update_bytes = max_update_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._online: set[str] = set()
        self._waiting: dict[str, _Waiting] = {}

    async def __aenter__(self) -> Self:
        """Remember the event loop, which worker threads publish through."""
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Fail all that is waited for."""
        self._loop = None
        for waiting in list(self._waiting.values()):
            waiting.inbox.on_lost(waiting.device, "the coordinator stops")

    def devices(self) -> Sequence[str]:
        """Devices whose last state was online."""
        return sorted(self._online)

    def send(self, invitation: Invitation, inbox: Inbox) -> int:
        """Keep the arrays as a blob, then publish the task; called from a worker thread.

        Raises:
            BrokerUnavailableError: the device is offline, or the broker took no message in time.
            StorageError: the blob could not be kept.
        """
        task, blob = invitation.task, invitation.blob
        if blob:
            task = msgspec.structs.replace(task, digest=self._blobs.put(blob), size=len(blob))
        payload = messages.encode(task)
        # Waiting comes first: a device that goes offline from now on is noticed either way.
        self._waiting[task.task] = _Waiting(invitation.device, inbox)
        try:
            self._check_online(invitation.device)
            self._publish(topics.round_task(invitation.device, task.task), payload)
        except AimassError:
            self.forget(task.task)
            raise
        return len(payload) + len(blob)

    def forget(self, task: str) -> None:
        """An answer to the task is late from now on, and dropped."""
        self._waiting.pop(task, None)

    async def on_state(self, device: str, state: DeviceState) -> None:
        """A device came or went; going fails its open tasks at once."""
        if state.online:
            self._online.add(device)
            return
        self._online.discard(device)
        for waiting in list(self._waiting.values()):
            if waiting.device == device:
                waiting.inbox.on_lost(device, "the device went offline")

    async def on_round_reply(self, device: str, reply: RoundReply) -> None:
        """A device answered; only the one that was asked may, and only once."""
        waiting = self._waiting.get(reply.task)
        if waiting is None or waiting.device != device:
            log.info("dropped a late or foreign reply of %s to task %s", device, reply.task)
            return
        self.forget(reply.task)
        await asyncio.to_thread(self._deliver, waiting.inbox, reply)

    def _deliver(self, inbox: Inbox, reply: RoundReply) -> None:
        blob, signal = b"", len(messages.encode(reply))
        try:
            blob = self._read(reply)
        except (AimassError, OSError) as error:
            code = error.code if isinstance(error, AimassError) else BadUpdateError.code
            reply = RoundReply(task=reply.task, ok=False, code=code, why=str(error))
        inbox.on_answer(Answer(reply=reply, blob=blob, bytes_up=signal + len(blob)))

    def _read(self, reply: RoundReply) -> bytes:
        if not reply.ok:
            return b""
        path = self._blobs.path(reply.digest)
        size = path.stat().st_size
        if size != reply.size or size > self._max_update_bytes:
            raise BadUpdateError(
                f"the update has {size} bytes, announced {reply.size},"
                f" the limit is {self._max_update_bytes}"
            )
        return path.read_bytes()

    def _check_online(self, device: str) -> None:
        if device not in self._online:
            raise BrokerUnavailableError(f"device {device} is offline")

    def _publish(self, topic: str, payload: bytes) -> None:
        if self._loop is None:
            raise BrokerUnavailableError("the coordinator stops")
        future = asyncio.run_coroutine_threadsafe(self._signals.publish(topic, payload), self._loop)
        try:
            future.result(SEND_SECONDS)
        except TimeoutError as error:
            future.cancel()
            raise BrokerUnavailableError(
                f"the broker took no message within {SEND_SECONDS:.0f} s"
            ) from error
