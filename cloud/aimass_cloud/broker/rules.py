"""Who may do what on the embedded broker: the rules of our mosquitto, as amqtt plugins.

A client must show a certificate of our CA, its client id must be the certificate's common name,
and that gives it its own subtree. amqtt 0.11 has gaps there, which `StrictBroker` closes. Imported
only by the broker's own process.
"""

import asyncio
import ssl
from collections import UserDict
from collections.abc import ItemsView, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BrokerConfig, ListenerConfig
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin

from aimass_cloud.broker.mosquitto import COORDINATOR
from aimass_shared.topics import ROOT

if TYPE_CHECKING:
    from amqtt.session import Session

    from aimass_cloud.broker.embedded import EmbeddedOptions

_peer: ContextVar[str | None] = ContextVar("peer", default=None)


def common_name(connection: ssl.SSLObject | None) -> str:
    """Common name in the peer's certificate; "" where there is none."""
    certificate = connection.getpeercert() if connection is not None else None
    for part in (certificate or {}).get("subject", ()):
        for pair in part:
            if pair[0] == "commonName":
                return str(pair[1])
    return ""


def may(client: str, topic: str, action: str) -> bool:
    """The access list of mosquitto.ACL: own `up` to publish, own `down` to receive.

    A subscription is granted if it lies within what its client may receive.
    """
    if client == COORDINATOR:
        return topic.startswith(f"{ROOT}/")
    mine = f"{ROOT}/{client}/{'up' if action == 'publish' else 'down'}/"
    return topic.startswith(mine)


class CertificateAuth(BaseAuthPlugin):  # type: ignore[misc]  # amqtt ships no type marker
    """The client id must be the certificate's common name."""

    async def authenticate(self, *, session: "Session") -> bool:
        """Whether this session is who it says."""
        name = common_name(session.ssl_object)
        return bool(name) and name == session.client_id


class OwnSubtree(BaseTopicPlugin):  # type: ignore[misc]  # amqtt ships no type marker
    """Every client in its own subtree."""

    async def topic_filtering(
        self,
        *,
        session: "Session | None" = None,
        topic: str | None = None,
        action: Action | None = None,
    ) -> bool:
        """Whether a client may publish to, subscribe to or receive from a topic."""
        return may(str(getattr(session, "client_id", "")), topic or "", str(action))


class _Steady(UserDict[str, Any]):
    """A dictionary that may change while somebody iterates over it across awaits, as amqtt does."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.data))

    def items(self) -> ItemsView[str, Any]:
        return dict(self.data).items()


class StrictBroker(Broker):  # type: ignore[misc]  # amqtt ships no type marker
    """amqtt with certificates required, and judged for every connection anew."""

    def __init__(self, config: BrokerConfig) -> None:
        super().__init__(config)
        self._subscriptions = _Steady()

    @staticmethod
    def _create_ssl_context(listener: ListenerConfig) -> ssl.SSLContext:
        context: ssl.SSLContext = Broker._create_ssl_context(listener)  # noqa: SLF001 - amqtt has no hook
        context.verify_mode = ssl.CERT_REQUIRED  # amqtt asks for one and takes none, too
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, *address: object
    ) -> tuple[BrokerProtocolHandler, "Session"]:
        """A persistent session remembers the certificate of its first connection; use this one."""
        connection = writer.get_ssl_info()
        _peer.set(common_name(connection) if connection is not None else None)
        handler, session = await super()._initialize_client_session(reader, writer, *address)
        session.ssl_object = connection
        return handler, session

    async def _delete_session(self, client_id: str) -> None:
        """A clean start deletes the old session before amqtt asks who is calling."""
        if _peer.get() in {None, client_id}:
            await super()._delete_session(client_id)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: "Session"
    ) -> None:
        """On connect amqtt goes through the subscriptions of everybody: only its own are meant."""
        holders = self._subscriptions.get(subscription[0], [])
        if any(holder is session for holder, _ in holders):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _handle_disconnect(
        self,
        session: "Session",
        handler: BrokerProtocolHandler,
        waiter: asyncio.Future[object],
    ) -> None:
        """Deliver first what was acknowledged before the goodbye: amqtt would forget it."""
        queue = session.delivered_message_queue
        while not queue.empty():
            message: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            message.set_result(queue.get_nowait())
            await self._handle_message_delivery(session, handler, message)
        await super()._handle_disconnect(session, handler, waiter)


def make_broker(options: "EmbeddedOptions") -> Broker:
    """A broker for these options; `await broker.start()` runs it."""
    listener: dict[str, Any] = {"type": "tcp", "bind": f"{options.host}:{options.port}"}
    plugins: dict[str, Any] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}}
    if options.tls is not None:
        files = options.tls
        listener |= {"ssl": True, "cafile": str(files.ca)}
        listener |= {"certfile": str(files.certificate), "keyfile": str(files.key)}
        plugins = {f"{__name__}.CertificateAuth": {}, f"{__name__}.OwnSubtree": {}}
    return StrictBroker(
        BrokerConfig.from_dict({"listeners": {"default": listener}, "plugins": plugins})
    )
