"""The coordinator's MQTT connection: made again for ever, read in batches, written by all parts.

No message is kept here: what devices send again until it is acknowledged is stored by the intake,
what the coordinator wants of them is kept by its parts.
"""

import asyncio
import logging
import random
import socket
from collections import Counter
from typing import Self

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from aimass_cloud.bridge.intake import Intake, Listener, Listeners, Received
from aimass_cloud.bridge.streams import Receipt
from aimass_cloud.broker import COORDINATOR, TlsFiles
from aimass_cloud.store import Store
from aimass_shared import messages, topics
from aimass_shared.errors import BodyTooLargeError, BrokerUnavailableError
from aimass_shared.messages import BrokerAddress, DeviceState, Reported, RoundReply

_log = logging.getLogger(__name__)

PUBLISH_DEADLINE_S = 5.0
CONNECT_DEADLINE_S = 10.0
KEEPALIVE_S = 15
SESSION_EXPIRY_S = 3600
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0
QUEUE_LIMIT = 10_000
BATCH_LIMIT = 500
_JITTER = random.SystemRandom()
_NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Nagle costs 40 ms per QoS 1 round trip
_MQTT_5 = 5


class Bridge:
    """Devices <-> coordinator. `async with` connects, and again after each loss.

    Args:
        address: the fleet's broker. tls: the coordinator's certificate; None without TLS.
        store: where predictions go.
    """

    def __init__(self, address: BrokerAddress, tls: TlsFiles | None, store: Store) -> None:
        self._address = address
        self._tls = tls
        self._listeners = Listeners()
        self._intake = Intake(store, self._listeners)
        self._client: aiomqtt.Client | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to connect; does not wait for the broker."""
        self._task = asyncio.create_task(self._keep_connected())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and our subscription."""
        return self._up.is_set()

    @property
    def counters(self) -> "Counter[str]":
        """What became of messages: messages, predictions, duplicates, gaps, malformed, ..."""
        return self._intake.counters

    def on_state(self, listener: Listener[DeviceState]) -> None:
        """Call `listener(device, state)` for each birth, heartbeat and last will."""
        self._listeners.state.append(listener)

    def on_reported(self, listener: Listener[Reported]) -> None:
        """Call `listener(device, reported)` for what a device says it runs."""
        self._listeners.reported.append(listener)

    def on_round_reply(self, listener: Listener[RoundReply]) -> None:
        """Call `listener(device, reply)` for each answer to a federated round."""
        self._listeners.round_reply.append(listener)

    async def wait_connected(self) -> None:
        """Return when the broker has accepted us; has no deadline of its own."""
        await self._up.wait()

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send a message at QoS 1; returns when the broker has acknowledged it.

        Raises:
            BrokerUnavailableError: not connected within `PUBLISH_DEADLINE_S`, or not acknowledged.
            BodyTooLargeError: over the limit of messages.
        """
        if len(payload) > messages.MAX_MESSAGE_BYTES:
            raise BodyTooLargeError(
                f"message to {topic} has {len(payload)} bytes, "
                f"the limit is {messages.MAX_MESSAGE_BYTES}"
            )
        try:
            async with asyncio.timeout(PUBLISH_DEADLINE_S):
                await self._up.wait()
                await self._send(topic, payload, qos=1, retain=retain)
        except TimeoutError as error:
            raise self._unavailable(f"no answer within {PUBLISH_DEADLINE_S:.0f} s") from error
        except aiomqtt.MqttError as error:
            raise self._unavailable(str(error)) from error

    async def _send(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        client = self._client
        if client is None:
            raise aiomqtt.MqttError("connection lost")
        await client.publish(topic, payload, qos=qos, retain=retain)

    def _unavailable(self, why: str) -> BrokerUnavailableError:
        return BrokerUnavailableError(
            f"MQTT broker {self._address.host}:{self._address.port}: {why}; is it running?"
        )

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            try:
                await self._live_once()
            except (aiomqtt.MqttError, OSError) as error:
                was_up = self._up.is_set()
                _log.log(logging.DEBUG if failures else logging.WARNING, "fleet broker: %s", error)
                failures = 0 if was_up else failures + 1
            except Exception:  # noqa: BLE001 - a task's edge: the next connection may work
                _log.exception("the bridge failed; it connects again")
                failures += 1
            finally:
                self._up.clear()
            await asyncio.sleep(_backoff_s(failures))

    async def _live_once(self) -> None:
        async with self._make_client() as client:
            client.pending_calls_threshold = BATCH_LIMIT
            await client.subscribe(topics.all_up(), qos=1)
            self._client = client
            self._up.set()
            _log.info("connected to the fleet's broker")
            try:
                await self._read(client)
            finally:
                self._client = None

    def _make_client(self) -> aiomqtt.Client:
        address, tls = self._address, self._tls
        modern = address.version == _MQTT_5
        return aiomqtt.Client(
            address.host,
            address.port,
            identifier=COORDINATOR,
            protocol=aiomqtt.ProtocolVersion.V5 if modern else aiomqtt.ProtocolVersion.V311,
            # Answers to rounds wait for us while we are away; all else is sent again anyway.
            clean_session=None if modern else False,
            clean_start=False if modern else 3,
            properties=_session() if modern else None,
            timeout=CONNECT_DEADLINE_S,
            keepalive=KEEPALIVE_S,
            max_queued_incoming_messages=QUEUE_LIMIT,
            max_inflight_messages=BATCH_LIMIT,
            socket_options=[_NO_DELAY],
            tls_params=None if tls is None else _tls_parameters(tls),
        )

    async def _read(self, client: aiomqtt.Client) -> None:
        """All that waits is one transaction: that makes hundreds of messages a second cheap."""
        arrived = client.messages
        async for message in arrived:
            batch = [_received(message)]
            while len(arrived) and len(batch) < BATCH_LIMIT:
                batch.append(_received(await anext(arrived)))
            for receipt in await self._intake.take(batch):
                await self._acknowledge(receipt)

    async def _acknowledge(self, receipt: Receipt) -> None:
        """At QoS 0: if it is lost, the device sends again, and is acknowledged again."""
        topic = topics.ack(receipt.device, receipt.stream)
        await self._send(topic, messages.encode(receipt.ack), qos=0)


def _received(message: aiomqtt.Message) -> Received:
    payload = message.payload
    return Received(str(message.topic), bytes(payload) if isinstance(payload, bytes) else b"")


def _tls_parameters(tls: TlsFiles) -> aiomqtt.TLSParameters:
    return aiomqtt.TLSParameters(
        ca_certs=str(tls.ca), certfile=str(tls.certificate), keyfile=str(tls.key)
    )


def _session() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's gap
    properties.SessionExpiryInterval = SESSION_EXPIRY_S
    return properties


def _backoff_s(failures: int) -> float:
    most = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures, 16))
    return _JITTER.uniform(FIRST_BACKOFF_S / 2, most)
