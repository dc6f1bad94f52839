"""Flower's Grid over our transport: any strategy of Flower can send through it and wait.

It waits on a condition, not by polling; a device that goes away fails its messages at once; every
message ends, by an answer or by its time to live. The names of flwr that are not public and used
here and in `wire` have a contract test.
"""

import logging
import math
import threading
import time
import uuid
from collections.abc import Iterable

import msgspec
from flwr.app import Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from aimass_cloud.federation.transport import Answer, Transport
from aimass_cloud.federation.wire import failure, invitation_of, node_id, reply_of
from aimass_shared.errors import (
    AimassError,
    BrokerUnavailableError,
    ConflictError,
    DeadlineExceededError,
)

log = logging.getLogger(__name__)
# Flower prints every step of a round on a handler of its own; what matters is in our records.
logging.getLogger("flwr").setLevel(logging.ERROR)


class Exchange(msgspec.Struct):
    """What one message cost: bytes on the wire, and seconds from sending to the answer."""

    device: str
    sent: float
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0


class AimassGrid(Grid):
    """A run's way to the devices. Its methods block: use it in a worker thread.

    Args:
        transport: carries the messages. run_id: of Flower, any number.
    """

    def __init__(self, transport: Transport, run_id: int) -> None:
        self._transport = transport
        self._run = Run.create_empty(run_id)
        self._changed = threading.Condition()
        self._open: dict[str, Message] = {}
        self._replies: dict[str, Message] = {}
        self._names: dict[int, str] = {}
        self._closed = False
        self.exchanges: dict[str, Exchange] = {}
        # Message() reads these for the whole process, so push_messages sets the run once more.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = (
            run_id,
            SUPERLINK_NODE_ID,
            1,
        )

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Put the grid into another run."""
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message as Flower wants it, to be pushed."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Devices that can be reached now, as Flower numbers them."""
        self._names.update({node_id(name): name for name in self._transport.devices()})
        return [node_id(name) for name in self._transport.devices()]

    def device(self, node: int) -> str:
        """The name of a device that was seen; its number where it was not."""
        return self._names.get(node, str(node))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Invite the devices; one that cannot be invited has failed at once."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Take the replies that are there, those of messages whose time is over among them."""
        wanted = list(message_ids)
        self._expire(wanted, time.time())
        with self._changed:
            ready = [self._replies.pop(name) for name in wanted if name in self._replies]
            for reply in ready:
                self._open.pop(reply.metadata.reply_to_message_id, None)
        return ready

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Invite, wait until every message has ended, return all replies, failures included.

        A `timeout` also shortens the messages' time to live, so that no device works for nobody.

        Raises:
            ConflictError: the grid was closed meanwhile.
        """
        pending = list(messages)
        if timeout is not None:
            for message in pending:
                message.metadata.ttl = min(message.metadata.ttl, timeout)
        names = list(self.push_messages(pending))
        ends = [m.metadata.created_at + m.metadata.ttl for m in pending]
        left = max(ends, default=0.0) - time.time()
        with self._changed:
            self._changed.wait_for(lambda: self._done(names), max(left, 0.0))
            if self._closed:
                raise ConflictError("the run was stopped")
        self._expire(names, math.inf)
        return self.pull_messages(names)

    def close(self) -> None:
        """Wake who waits: the run is over, whatever is still open."""
        with self._changed:
            self._closed = True
            for name in self._open:
                self._transport.forget(name)
            self._changed.notify_all()

    def on_answer(self, answer: Answer) -> None:
        """A device has answered; what nobody waits for is dropped."""
        with self._changed:
            message = self._open.get(answer.reply.task)
            if message is None or answer.reply.task in self._replies:
                log.info("dropped a late or second answer to task %s", answer.reply.task)
                return
            self.exchanges[answer.reply.task].bytes_up += answer.bytes_up
        self._settle(reply_of(message, answer))

    def on_lost(self, device: str, why: str) -> None:
        """A device is gone: its open messages have failed."""
        self.node_lost(node_id(device), why)

    def node_lost(self, node: int, why: str = "the device went offline") -> None:
        """Fail the open messages of a node at once."""
        with self._changed:
            lost = [m for m in self._open.values() if m.metadata.dst_node_id == node]
        for message in lost:
            self._settle(failure(message, BrokerUnavailableError.code, why))

    def _push(self, message: Message) -> str:
        name, device = uuid.uuid4().hex, self.device(message.metadata.dst_node_id)
        # flwr has no setters for these two: the SuperLink, which we do without, sets them.
        message.metadata.__dict__.update(_run_id=self._run.run_id, _message_id=name)
        exchange = Exchange(device=device, sent=time.monotonic())
        with self._changed:
            self._open[name] = message
            self.exchanges[name] = exchange
        try:
            exchange.bytes_down = self._transport.send(invitation_of(message, device), self)
        except AimassError as error:
            self._settle(failure(message, error.code, error.detail))
        return name

    def _settle(self, reply: Message) -> None:
        """Keep the first reply to a message that is open, and wake who waits."""
        name = reply.metadata.reply_to_message_id
        with self._changed:
            if name in self._open and name not in self._replies:
                exchange = self.exchanges[name]
                exchange.seconds = time.monotonic() - exchange.sent
                self._replies[name] = reply
                self._changed.notify_all()

    def _expire(self, names: Iterable[str], now: float) -> None:
        """Fail the messages whose time is over, in seconds since 1970."""
        with self._changed:
            unanswered = [n for n in names if n in self._open and n not in self._replies]
            messages = [self._open[name] for name in unanswered]
        for message in messages:
            metadata = message.metadata
            if now >= metadata.created_at + metadata.ttl:
                self._transport.forget(metadata.message_id)
                why = f"no answer within {metadata.ttl:.1f} s"
                self._settle(failure(message, DeadlineExceededError.code, why))

    def _done(self, names: Iterable[str]) -> bool:
        return self._closed or all(name in self._replies for name in names)
