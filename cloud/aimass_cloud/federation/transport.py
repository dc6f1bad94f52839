"""How invitations reach devices and answers come back: two protocols, and one within a process.

A transport carries our own messages and blobs; `aimass_cloud.federation.wire` turns them into
Flower's. The transport over the fleet's MQTT and HTTP is in `aimass_cloud.federation.signals`.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from aimass_shared.errors import AimassError, BrokerUnavailableError
from aimass_shared.messages import RoundReply, RoundTask

log = logging.getLogger(__name__)


class Invitation(msgspec.Struct, frozen=True):
    """A task for one device, with the arrays (update codec, or empty) that it starts from.

    `task.digest` and `task.size` are set by the transport.
    """

    device: str
    task: RoundTask
    blob: bytes


class Answer(msgspec.Struct, frozen=True):
    """A device's reply and the update that it left (empty if it failed); `bytes_up` on the wire."""

    reply: RoundReply
    blob: bytes
    bytes_up: int


class Inbox(Protocol):
    """Where a transport brings what it hears; called from any thread, must not block long."""

    def on_answer(self, answer: Answer) -> None:
        """A device has answered; unknown, second and late answers are dropped."""
        ...

    def on_lost(self, device: str, why: str) -> None:
        """A device is gone: nobody waits for it any longer."""
        ...


class Transport(Protocol):
    """Carries invitations to devices. Used from the worker thread of a round."""

    def devices(self) -> Sequence[str]:
        """Devices that can be reached now."""
        ...

    def send(self, invitation: Invitation, inbox: Inbox) -> int:
        """Invite a device; its answer goes to the inbox. Returns the bytes that it will load.

        Raises:
            AimassError: the device cannot be invited.
        """
        ...

    def forget(self, task: str) -> None:
        """Nobody waits for the answer to a task any longer."""
        ...


Handler = Callable[[RoundTask, bytes], tuple[RoundReply, bytes] | None]


class LocalTransport:
    """Devices as functions in this process, one thread for each task (tests, simulation).

    A handler gets the task and its arrays; None is a device that never answers.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)
        self._waiting: dict[str, tuple[str, Inbox]] = {}
        self._lock = threading.Lock()

    def devices(self) -> Sequence[str]:
        """Devices that were not lost."""
        return sorted(self._handlers)

    def send(self, invitation: Invitation, inbox: Inbox) -> int:
        """Start the handler of the device in a thread of its own."""
        handler = self._handlers.get(invitation.device)
        if handler is None:
            raise BrokerUnavailableError(f"device {invitation.device} is offline")
        with self._lock:
            self._waiting[invitation.task.task] = (invitation.device, inbox)
        threading.Thread(target=self._run, args=(handler, invitation, inbox), daemon=True).start()
        return len(invitation.blob)

    def forget(self, task: str) -> None:
        """Drop a task; its thread ends by itself."""
        with self._lock:
            self._waiting.pop(task, None)

    def lose(self, device: str) -> None:
        """Take a device away, as a last will does."""
        with self._lock:
            self._handlers.pop(device, None)
            inboxes = [inbox for name, inbox in self._waiting.values() if name == device]
        for inbox in inboxes:
            inbox.on_lost(device, "the device went offline")

    def _run(self, handler: Handler, invitation: Invitation, inbox: Inbox) -> None:
        task = invitation.task
        try:
            done = handler(task, invitation.blob)
        except Exception:  # the edge of a simulated device: its failure is an answer
            log.exception("simulated device %s failed", invitation.device)
            why = "the simulated device failed; see the log"
            done = (RoundReply(task=task.task, ok=False, code=AimassError.code, why=why), b"")
        if done is not None:
            reply, blob = done
            inbox.on_answer(Answer(reply=reply, blob=blob, bytes_up=len(blob)))
