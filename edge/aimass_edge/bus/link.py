"""One MQTT connection, from CONNECT until it is lost: paho and its thread, wrapped.

Why a fresh paho client per connection: paho's own reconnect re-uses the old last will (Sparkplug
needs another one each time), and its queue would re-send what the outbox re-sends. Why the
callbacks only append and ring: they run in paho's thread, sometimes under its locks, and an
exception in them would end that thread without a word. Reconnecting is not done here.
"""

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from aimass_edge.bus.inbox import Doorbell, Inbox, Letter
from aimass_edge.bus.options import BusOptions, Inbound, Will
from aimass_shared.errors import BrokerUnavailableError

_log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 10.0
TCP_DEADLINE_S = 5.0
CLOSE_DEADLINE_S = 2.0
MAX_IN_FLIGHT = 100
RECEIVE_MAXIMUM = 1000
_REFUSED = 0x80
_MQTT_311 = 4
_MQTT_5 = 5


class Link:
    """One connection, from CONNECT until it is lost; never used again. Owns paho and its thread."""

    def __init__(self, options: BusOptions, will: Will | None, inbox: Inbox) -> None:
        loop = asyncio.get_running_loop()
        self.options = options
        self.up: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.window = asyncio.Semaphore(MAX_IN_FLIGHT)
        self.max_packet_bytes = options.max_payload_bytes
        self._inbox = inbox
        self._calls: deque[Callable[[], None]] = deque()
        self._bell = Doorbell(self._run_calls)
        self._answers: dict[int, asyncio.Future[ReasonCode]] = {}
        self._unsent = 0
        self._reason = "connection lost"
        self._give_up_at = float("inf")
        self._client = self._make_client(will)
        self._thread = threading.Thread(target=self._run, name="aimass-mqtt", daemon=True)

    def _make_client(self, will: Will | None) -> Client:
        options = self.options
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            protocol=MQTTProtocolVersion(options.version),
            clean_session=options.session_expiry_s == 0 if options.version == _MQTT_311 else None,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(0)  # ours is the window, see `window`
        client.connect_timeout = TCP_DEADLINE_S
        if options.username:
            client.username_pw_set(options.username, options.password)
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_connect = self._heard_connack
        client.on_disconnect = self._heard_disconnect
        client.on_message = self._heard_message
        client.on_publish = self._heard_puback
        client.on_subscribe = self._heard_suback
        client.on_socket_open = _no_delay
        # Its presence keeps paho from writing in the caller's thread beside its own.
        client.on_socket_register_write = _leave_it_to_the_thread
        return client

    # --- paho's thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._connect()
            while time.monotonic() < self._give_up_at:
                if self._client.loop(timeout=0.5) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
        # The thread's edge: whatever paho raises ends this connection, not the agent.
        except Exception as error:  # noqa: BLE001 - a task's edge
            if not isinstance(error, OSError):
                _log.exception("the MQTT client failed; a new connection follows")
            self._reason = f"{type(error).__name__}: {error}"
        finally:
            self._forget_callbacks()
            self._post(self._end)

    def _connect(self) -> None:
        options = self.options
        if options.tls is not None:
            context = ssl.create_default_context(cafile=options.tls.ca)
            context.load_cert_chain(options.tls.certificate, options.tls.key)
            self._client.tls_set_context(context)
        extra: dict[str, Any] = {}
        if options.version == _MQTT_5:
            extra = {"clean_start": options.session_expiry_s == 0, "properties": _offer(options)}
        self._client.connect(options.host, options.port, options.keepalive_s, **extra)

    def _forget_callbacks(self) -> None:
        """Break the cycle client -> callback -> link -> client, so sockets close at once."""
        client = self._client
        client.on_connect = client.on_disconnect = client.on_message = None
        client.on_publish = client.on_subscribe = client.on_socket_register_write = None

    def _post(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._bell.ring()

    def _heard_connack(self, _client: Client, _userdata: object, *event: object) -> None:
        _flags, code, extra = cast("tuple[ConnectFlags, ReasonCode, Properties | None]", event)
        self._post(partial(self._begin, code, extra))

    def _heard_disconnect(self, _client: Client, _userdata: object, *event: object) -> None:
        self._reason = str(event[1])  # flags, code, properties

    def _heard_puback(self, _client: Client, _userdata: object, *event: object) -> None:
        mid, code, _extra = cast("tuple[int, ReasonCode, Properties]", event)
        self._post(partial(self._answer, mid, code))

    def _heard_suback(self, _client: Client, _userdata: object, *event: object) -> None:
        mid, codes, _extra = cast("tuple[int, list[ReasonCode], Properties | None]", event)
        self._post(partial(self._answer, mid, codes[0]))

    def _heard_message(self, _c: Client, _u: object, message: MQTTMessage) -> None:
        done = partial(self._confirm, message.mid) if message.qos else None
        try:
            inbound = Inbound(message.topic, bytes(message.payload), message.retain)
        except UnicodeDecodeError:
            inbound = Inbound("", b"", retain=False)
        if not inbound.topic or len(inbound.payload) > self.options.max_payload_bytes:
            self._inbox.dropped += 1
            if done is not None:
                done()
            return
        self._inbox.put(Letter(inbound, done))

    def _confirm(self, mid: int) -> None:
        """In any thread: the message was handled, the broker may forget it."""
        if not self.lost.done():
            self._client.ack(mid, 1)

    # --- the event loop ------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, and wait for the broker's yes.

        Raises:
            BrokerUnavailableError: there was none within `CONNECT_DEADLINE_S`.
        """
        self._thread.start()
        ends: set[asyncio.Future[Any]] = {self.up, self.lost}
        await asyncio.wait(ends, timeout=CONNECT_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        if not self.up.done():
            why = self.lost.result() if self.lost.done() else "no answer"
            raise BrokerUnavailableError(
                f"MQTT broker {self.options.host}:{self.options.port}: {why}; trying again"
            )

    async def close(self) -> None:
        """Say goodbye (after what is queued), wait for the thread, but not for ever."""
        self._give_up_at = time.monotonic() + CLOSE_DEADLINE_S
        if self.up.done():
            self._client.disconnect()
        else:
            self._give_up_at = 0.0
        await asyncio.wait({self.lost}, timeout=CLOSE_DEADLINE_S)

    def _run_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _begin(self, code: ReasonCode, extra: Properties | None) -> None:
        if code.is_failure:
            self._reason = f"refused: {code}"
            return
        room: int = getattr(extra, "ReceiveMaximum", MAX_IN_FLIGHT)
        self.window = asyncio.Semaphore(min(room, MAX_IN_FLIGHT))
        # Over the broker's limit it would cut the connection, and again after every re-send.
        most: int = getattr(extra, "MaximumPacketSize", self.max_packet_bytes)
        self.max_packet_bytes = min(self.max_packet_bytes, most)
        if not self.up.done():
            self.up.set_result(None)

    def _end(self) -> None:
        if not self.lost.done():
            self.lost.set_result(self._reason)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(unavailable(f"connection lost: {self._reason}"))
                answer.exception()  # whoever gave up waiting must not cause a warning
        self._answers.clear()

    def _answer(self, mid: int, code: ReasonCode) -> None:
        answer = self._answers.pop(mid, None)
        if answer is None:
            self._unsent -= 1  # only QoS 0 has no entry; paho tells when it is on the wire
        elif not answer.done():
            answer.set_result(code)

    def send_quick(self, topic: str, payload: bytes, *, retain: bool) -> bool:
        """Hand a QoS 0 message to the network; False if too many wait for it already."""
        if self._unsent >= self.options.queue_limit:
            return False
        info = self._client.publish(topic, payload, 0, retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise unavailable(f"connection lost: {info.rc.name}")
        self._unsent += 1
        return True

    async def send_sure(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Send at QoS 1 and wait for the broker's acknowledgement."""
        async with self.window:
            if self.lost.done():
                raise unavailable(f"connection lost: {self._reason}")
            info = self._client.publish(topic, payload, 1, retain)
            code = await self._wait_for(info.mid)
        if code.value >= _REFUSED:
            raise unavailable(f"the broker refused a message to {topic}: {code}")

    async def subscribe(self, topic_filter: str, qos: int) -> None:
        """Subscribe and wait for the answer; a refusal is logged, the others go on."""
        _, mid = self._client.subscribe(topic_filter, qos)
        if mid is None:
            raise unavailable("connection lost before subscribing")
        code = await self._wait_for(mid)
        if code.value >= _REFUSED:
            _log.error("the broker refused to subscribe us to %s: %s", topic_filter, code)

    async def _wait_for(self, mid: int) -> ReasonCode:
        answer: asyncio.Future[ReasonCode] = asyncio.get_running_loop().create_future()
        self._answers[mid] = answer
        return await answer


def _offer(options: BusOptions) -> Properties:
    """What we tell an MQTT 5 broker in CONNECT (MQTT 5.0, section 3.1.2.11)."""
    offer = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no annotation there
    offer.SessionExpiryInterval = options.session_expiry_s
    offer.ReceiveMaximum = RECEIVE_MAXIMUM
    offer.MaximumPacketSize = options.max_payload_bytes + (1 << 16)  # room for topic and properties
    return offer


def _no_delay(_client: Client, _userdata: object, sock: object) -> None:
    """Nagle's algorithm costs 40 ms on every QoS 1 round trip."""
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _leave_it_to_the_thread(_client: Client, _userdata: object, _socket: object) -> None:
    """Nothing to do: paho's thread is woken by its own socket pair."""


def unavailable(why: str) -> BrokerUnavailableError:
    """The error of everything that needs a connection which is not there."""
    return BrokerUnavailableError(f"{why}; the connection is made again by itself")
