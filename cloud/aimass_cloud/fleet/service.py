"""The fleet: who may join, who is there, what each device shall run and says it runs.

Rows in and structs out; MQTT is the bridge's matter, HTTP that of `api`. An enrolment either
leaves a device and a used token, or nothing.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from aimass_cloud.config import TrustSettings
from aimass_cloud.fleet.ca import Authority
from aimass_cloud.fleet.measurements import MeasurementStore
from aimass_cloud.store import Store
from aimass_cloud.store.tables import DeviceRow, JoinTokenRow, PredictionRow
from aimass_shared import identity, topics
from aimass_shared.errors import (
    BadJoinTokenError,
    ConflictError,
    MalformedMessageError,
    NotFoundError,
)
from aimass_shared.identity import JoinToken
from aimass_shared.messages import (
    AgentStats,
    BrokerAddress,
    Desired,
    DeviceState,
    EnrollReply,
    EnrollRequest,
    Inventory,
    Prediction,
    Reported,
)

MAX_TOKEN_MINUTES = 7 * 24 * 60
MAX_SITE_CHARACTERS = 57
"""So that `<site>-<6 hex>` is a topic segment and a common name."""
MAX_PAGE = 1000
_ORDER = (PredictionRow.window_end, PredictionRow.item, PredictionRow.epoch)


class Device(msgspec.Struct, frozen=True):
    """A device as callers see it. Times are UTC milliseconds since 1970, 0 = never."""

    id: str
    site: str
    channel: str
    inventory: Inventory
    enrolled: int
    revoked: bool
    online: bool
    last_seen: int
    stats: AgentStats
    desired: Desired | None
    reported: Reported | None


class PredictionPage(msgspec.Struct, frozen=True):
    """Some predictions, oldest first; `next` is the cursor of the following ones, if any."""

    items: list[Prediction]
    next: str | None


class Fleet:
    """Enrolment and the devices' rows; `measurements` is what slices cost on them.

    Args:
        store: where the rows are.
        authority: who signs device certificates.
        trust: lifetimes.
        broker: the address that devices are told, when one enrols.
        tuf_root: the signed TUF root (JSON) that devices are told, when one enrols.
    """

    def __init__(
        self,
        store: Store,
        authority: Authority,
        *,
        trust: TrustSettings,
        broker: Callable[[], BrokerAddress],
        tuf_root: Callable[[], str],
    ) -> None:
        self._store = store
        self._authority = authority
        self._trust = trust
        self._broker = broker
        self._tuf_root = tuf_root
        self.measurements = MeasurementStore(store)

    @property
    def ca_pem(self) -> str:
        """The CA that devices trust."""
        return self._authority.pem

    async def create_join_token(
        self, site: str, channel: str, minutes: int | None = None
    ) -> JoinToken:
        """A permit for one device to join a site, for some minutes.

        Raises:
            MalformedMessageError: a name that cannot stand in a topic, or too long a life.
        """
        minutes = self._trust.join_token_minutes if minutes is None else minutes
        _check_order(site, channel, minutes)
        token = JoinToken(self._authority.sha256, secrets.token_hex(6), secrets.token_urlsafe(24))
        row = JoinTokenRow(
            id=token.id,
            secret_sha256=_sha256(token.secret),
            site=site,
            channel=channel,
            expires=_now_ms() + minutes * 60_000,
            uses_left=1,
        )
        async with self._store.session() as session:
            session.add(row)
        return token

    async def enroll(self, request: EnrollRequest) -> EnrollReply:
        """Make a device of whoever shows a good token and proves a key.

        Raises:
            BadJoinTokenError: the token is malformed, of another CA, unknown, expired or used.
            MalformedMessageError: the CSR is not the proof of a P-256 key.
        """
        token = JoinToken.parse(request.token)
        key = identity.check_csr(request.csr)
        await self._check_token(token)
        root, broker = self._tuf_root(), self._broker()  # what fails here costs no token
        async with self._store.session() as session:
            site, channel = await _use_token(session, token)
            device = await _free_id(session, site)
            row = DeviceRow(
                id=device,
                site=site,
                channel=channel,
                certificate=self._sign(key, device),
                inventory=msgspec.to_builtins(request.inventory),
                enrolled=_now_ms(),
            )
            session.add(row)
        return EnrollReply(
            device=row.id,
            site=site,
            channel=channel,
            certificate=row.certificate,
            ca=self._authority.pem,
            tuf_root=root,
            broker=broker,
        )

    async def devices(self) -> list[Device]:
        """All devices, by id."""
        async with self._store.reading() as session:
            rows = await session.scalars(select(DeviceRow).order_by(DeviceRow.id))
            return [_device(row) for row in rows]

    async def device(self, device: str) -> Device:
        """One device.

        Raises:
            NotFoundError: there is no such device.
        """
        async with self._store.reading() as session:
            return _device(await _row(session, device))

    async def revoke(self, device: str) -> None:
        """End a device's right to speak HTTP, for ever.

        Raises:
            NotFoundError: there is no such device.
        """
        async with self._store.session() as session:
            (await _row(session, device)).revoked = True

    async def set_desired(self, device: str, desired: Desired) -> None:
        """Record what a device shall run.

        Raises:
            NotFoundError: there is no such device.
            ConflictError: its desired state is at that version already, or beyond.
        """
        async with self._store.session() as session:
            row = await _row(session, device)
            current = row.desired.get("v", 0)
            if isinstance(current, int) and current >= desired.v:
                raise ConflictError(f"the desired state of {device} is at version {current}")
            row.desired = msgspec.to_builtins(desired)

    async def record_state(self, device: str, state: DeviceState) -> None:
        """Record a birth, heartbeat or last will, as seen by our clock.

        Raises:
            NotFoundError: there is no such device.
        """
        async with self._store.session() as session:
            row = await _row(session, device)
            row.online = state.online
            if state.online:  # a last will carries no statistics, and nobody was seen
                row.last_seen = _now_ms()
                row.stats = msgspec.to_builtins(state.stats)

    async def record_reported(self, device: str, reported: Reported) -> None:
        """Record what a device says it runs.

        Raises:
            NotFoundError: there is no such device.
        """
        async with self._store.session() as session:
            (await _row(session, device)).reported = msgspec.to_builtins(reported)

    async def predictions(
        self, device: str, after: str = "", limit: int = MAX_PAGE
    ) -> PredictionPage:
        """Stored predictions of a device after a cursor, oldest window first.

        Raises:
            NotFoundError: there is no such device.
            MalformedMessageError: the cursor is not one that this method gave.
        """
        query = select(PredictionRow).where(PredictionRow.device == device).order_by(*_ORDER)
        if after:
            query = query.where(tuple_(*_ORDER) > tuple_(*map(literal, _cursor(after))))
        limit = max(1, min(limit, MAX_PAGE))
        async with self._store.reading() as session:
            await _row(session, device)
            rows = (await session.scalars(query.limit(limit + 1))).all()
        page = rows[:limit]
        items = [msgspec.json.decode(row.body, type=Prediction) for row in page]
        more = len(rows) > limit
        return PredictionPage(items, _cursor_text(page[-1]) if more else None)

    async def _check_token(self, token: JoinToken) -> None:
        """Refuse before the write lock is taken: a flood of bad tokens stays cheap."""
        if token.ca_sha256 != self._authority.sha256:
            raise BadJoinTokenError("the join token is of another coordinator")
        async with self._store.reading() as session:
            row = await session.get(JoinTokenRow, token.id)
        known = row.secret_sha256 if row else _sha256("")
        if not hmac.compare_digest(known, _sha256(token.secret)):
            raise BadJoinTokenError("the join token is unknown: make a new one")

    def _sign(self, key: ec.EllipticCurvePublicKey, device: str) -> str:
        return self._authority.device(key, device, self._trust.device_certificate_days)


async def _free_id(session: AsyncSession, site: str) -> str:
    """An id that no device has; the write lock is held, so it stays free until the commit."""
    while True:
        device = f"{site}-{secrets.token_hex(3)}"
        if await session.get(DeviceRow, device) is None:
            return device


async def _use_token(session: AsyncSession, token: JoinToken) -> tuple[str, str]:
    """Take the token's last use: compare-and-set, so that of two devices one wins."""
    statement = (
        update(JoinTokenRow)
        .where(
            JoinTokenRow.id == token.id,
            JoinTokenRow.uses_left > 0,
            JoinTokenRow.expires > _now_ms(),
        )
        .values(uses_left=JoinTokenRow.uses_left - 1)
        .returning(JoinTokenRow.site, JoinTokenRow.channel)
    )
    found = (await session.execute(statement)).one_or_none()
    if found is None:
        raise BadJoinTokenError("the join token is expired or was used: make a new one")
    return found.site, found.channel


async def _row(session: AsyncSession, device: str) -> DeviceRow:
    row = await session.get(DeviceRow, device)
    if row is None:
        raise NotFoundError(f"there is no device {device[:64]!r}")
    return row


def _device(row: DeviceRow) -> Device:
    return Device(
        id=row.id,
        site=row.site,
        channel=row.channel,
        inventory=msgspec.convert(row.inventory, Inventory),
        enrolled=row.enrolled,
        revoked=row.revoked,
        online=row.online,
        last_seen=row.last_seen,
        stats=msgspec.convert(row.stats, AgentStats),
        desired=msgspec.convert(row.desired, Desired) if row.desired else None,
        reported=msgspec.convert(row.reported, Reported) if row.reported else None,
    )


def _check_order(site: str, channel: str, minutes: int) -> None:
    topics.check_segment(site, "site")
    topics.check_segment(channel, "channel")
    if len(site) > MAX_SITE_CHARACTERS:
        raise MalformedMessageError(f"a site's name has {MAX_SITE_CHARACTERS} characters at most")
    if not 0 < minutes <= MAX_TOKEN_MINUTES:
        raise MalformedMessageError(f"a join token lives 1 to {MAX_TOKEN_MINUTES} minutes")


def _cursor(text: str) -> tuple[int, int, str]:
    window_end, _, rest = text.partition(":")
    item, _, epoch = rest.partition(":")
    try:
        return int(window_end), int(item), epoch
    except ValueError as error:
        raise MalformedMessageError("`after` must be the `next` of an earlier page") from error


def _cursor_text(row: PredictionRow) -> str:
    return f"{row.window_end}:{row.item}:{row.epoch}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
