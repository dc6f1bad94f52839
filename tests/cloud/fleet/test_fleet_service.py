import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from aimass_cloud.config import TrustSettings
from aimass_cloud.fleet import Fleet
from aimass_cloud.fleet.ca import Authority, new_authority
from aimass_cloud.store import Store
from aimass_cloud.store.tables import JoinTokenRow, PredictionRow
from aimass_shared import identity
from aimass_shared.errors import (
    BadJoinTokenError,
    BrokerUnavailableError,
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
    EnrollRequest,
    Inventory,
    Prediction,
    ReleaseRef,
    Reported,
)
from aimass_shared.slices import Board

BROKER = BrokerAddress("127.0.0.1", 8883, tls=True)
INVENTORY = Inventory(Board("raspberry-pi-5", 512.0, 3.0, 50.0), "aarch64", "3.11", "0.1", "ort")
REF = ReleaseRef("r1", "stable/tep/r1.json", "w0.50-int8")


@pytest.fixture
def authority() -> Authority:
    return new_authority()


@pytest.fixture
def fleet(store: Store, authority: Authority) -> Fleet:
    return Fleet(
        store, authority, trust=TrustSettings(), broker=lambda: BROKER, tuf_root=lambda: "{root}"
    )


def _request(token: str, csr: str | None = None) -> EnrollRequest:
    return EnrollRequest(
        token=token, csr=csr or identity.make_csr(identity.new_key()), inventory=INVENTORY
    )


async def _join(fleet: Fleet, site: str = "press") -> str:
    token = await fleet.create_join_token(site, "stable")
    return (await fleet.enroll(_request(token.text()))).device


async def test_a_device_gets_its_identity_and_all_that_it_must_know(
    fleet: Fleet, authority: Authority
) -> None:
    token = await fleet.create_join_token("press", "stable")
    key = identity.new_key()
    reply = await fleet.enroll(_request(token.text(), identity.make_csr(key)))
    identity.check_ca(reply.ca, token)
    identity.check_certificate(
        identity.load_certificate(reply.certificate),
        ca=authority.certificate,
        key=key.public_key(),
        device=reply.device,
        now=datetime.now(tz=UTC),
    )
    assert reply.device.startswith("press-")
    assert (reply.site, reply.channel) == ("press", "stable")
    assert (reply.tuf_root, reply.broker) == ("{root}", BROKER)
    device = await fleet.device(reply.device)
    assert (device.inventory, device.online, device.revoked) == (INVENTORY, False, False)
    assert (device.desired, device.reported) == (None, None)
    assert await fleet.devices() == [device]


async def test_names_that_a_csr_asks_for_are_ignored(fleet: Fleet) -> None:
    token = await fleet.create_join_token("press", "stable")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")])
    names = x509.SubjectAlternativeName([x509.DNSName("broker.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    csr = builder.add_extension(names, critical=False).sign(identity.new_key(), hashes.SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM).decode()
    reply = await fleet.enroll(_request(token.text(), pem))
    assert "coordinator" not in reply.device
    certificate = identity.load_certificate(reply.certificate)
    assert identity.common_name(certificate) == reply.device
    assert b"broker.example" not in certificate.public_bytes(serialization.Encoding.DER)


async def test_a_token_admits_one_device(fleet: Fleet) -> None:
    token = await fleet.create_join_token("press", "stable")
    await fleet.enroll(_request(token.text()))
    with pytest.raises(BadJoinTokenError, match="used"):
        await fleet.enroll(_request(token.text()))
    assert len(await fleet.devices()) == 1


async def test_of_two_devices_with_one_token_exactly_one_wins(fleet: Fleet) -> None:
    token = (await fleet.create_join_token("press", "stable")).text()
    results = await asyncio.gather(
        *(fleet.enroll(_request(token)) for _ in range(8)), return_exceptions=True
    )
    lost = [result for result in results if isinstance(result, BadJoinTokenError)]
    assert len(lost) == 7
    assert len(await fleet.devices()) == 1


async def test_an_expired_token_admits_nobody(fleet: Fleet, store: Store) -> None:
    token = await fleet.create_join_token("press", "stable", 1)
    async with store.session() as session:
        await session.execute(update(JoinTokenRow).values(expires=1))
    with pytest.raises(BadJoinTokenError, match="expired"):
        await fleet.enroll(_request(token.text()))
    assert await fleet.devices() == []


async def test_a_guessed_token_admits_nobody_and_costs_no_use(fleet: Fleet) -> None:
    token = await fleet.create_join_token("press", "stable")
    guesses = [
        JoinToken(token.ca_sha256, token.id, "x" * 32),
        JoinToken(token.ca_sha256, "0" * 12, token.secret),
        JoinToken("0" * 64, token.id, token.secret),
    ]
    for guess in guesses:
        with pytest.raises(BadJoinTokenError):
            await fleet.enroll(_request(guess.text()))
    with pytest.raises(BadJoinTokenError):
        await fleet.enroll(_request("no token"))
    await fleet.enroll(_request(token.text()))


async def test_a_bad_csr_costs_no_use(fleet: Fleet) -> None:
    token = (await fleet.create_join_token("press", "stable")).text()
    key = ec.generate_private_key(ec.SECP384R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    for bad, why in ((csr, "P-256"), ("no csr", "parse")):
        with pytest.raises(MalformedMessageError, match=why):
            await fleet.enroll(_request(token, bad))
    await fleet.enroll(_request(token))


async def test_a_coordinator_that_is_not_ready_costs_no_use(
    store: Store, authority: Authority
) -> None:
    answers = iter([None, BROKER])

    def broker() -> BrokerAddress:
        if (answer := next(answers)) is None:
            raise BrokerUnavailableError("the broker is not there yet")
        return answer

    fleet = Fleet(store, authority, trust=TrustSettings(), broker=broker, tuf_root=lambda: "{}")
    token = (await fleet.create_join_token("press", "stable")).text()
    with pytest.raises(BrokerUnavailableError):
        await fleet.enroll(_request(token))
    assert await fleet.devices() == []
    await fleet.enroll(_request(token))


@pytest.mark.parametrize(
    ("site", "channel", "minutes"),
    [
        ("a/b", "stable", 15),
        ("", "stable", 15),
        ("x" * 58, "stable", 15),
        ("press", "#", 15),
        ("press", "stable", 0),
        ("press", "stable", 20_000),
    ],
)
async def test_a_token_for_nonsense_is_refused(
    fleet: Fleet, site: str, channel: str, minutes: int
) -> None:
    with pytest.raises(MalformedMessageError):
        await fleet.create_join_token(site, channel, minutes)


async def test_the_desired_state_only_goes_forward(fleet: Fleet) -> None:
    device = await _join(fleet)
    for version in (1, 2):
        await fleet.set_desired(device, Desired(v=version, ts=1, release=REF))
    for version in (1, 2):
        with pytest.raises(ConflictError, match="version 2"):
            await fleet.set_desired(device, Desired(v=version, ts=1))
    assert (await fleet.device(device)).desired == Desired(v=2, ts=1, release=REF)


async def test_state_and_report_are_recorded(fleet: Fleet) -> None:
    device = await _join(fleet)
    stats = AgentStats(predictions=7, p99_ms=4.5)
    await fleet.record_state(device, DeviceState(online=True, session="s", ts=1, stats=stats))
    reported = Reported(v=1, ts=2, state="rejected", code="unfit-release", why="too large")
    await fleet.record_reported(device, reported)
    born = await fleet.device(device)
    assert (born.online, born.stats, born.reported) == (True, stats, reported)
    assert born.last_seen > 0
    await fleet.record_state(device, DeviceState(online=False, session="s", ts=3))
    died = await fleet.device(device)
    assert (died.online, died.stats, died.last_seen) == (False, stats, born.last_seen)


def _calls(fleet: Fleet) -> list[Callable[[], Coroutine[Any, Any, object]]]:
    return [
        lambda: fleet.device("nobody"),
        lambda: fleet.revoke("nobody"),
        lambda: fleet.set_desired("nobody", Desired(v=1, ts=1)),
        lambda: fleet.record_state("nobody", DeviceState(online=True, session="s", ts=1)),
        lambda: fleet.record_reported("nobody", Reported(v=1, ts=1, state="idle")),
        lambda: fleet.predictions("nobody"),
    ]


async def test_what_is_not_a_device_is_not_found(fleet: Fleet) -> None:
    for call in _calls(fleet):
        with pytest.raises(NotFoundError):
            await call()


def _row(device: str, epoch: str, item: int, window_end: int) -> PredictionRow:
    body = Prediction(
        model="tep",
        release="r1",
        slice="w",
        sequence=item,
        window_end=window_end,
        score=1.0,
        threshold=2.0,
        alarm=False,
        top_sensors=(epoch,),
        coverage=1.0,
        place="local",
        service_ms=1.0,
    )
    return PredictionRow(
        device=device,
        epoch=epoch,
        item=item,
        window_end=window_end,
        release="r1",
        score=1.0,
        alarm=False,
        body=msgspec.json.encode(body),
    )


ITEMS = st.sets(
    st.tuples(st.sampled_from(["a", "b:c"]), st.integers(0, 9), st.integers(0, 3)),
    max_size=25,
).map(lambda found: {(epoch, item): end for epoch, item, end in found})


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(items=ITEMS, limit=st.integers(1, 30))
async def test_pages_give_every_prediction_once_and_oldest_first(
    fleet: Fleet, store: Store, items: dict[tuple[str, int], int], limit: int
) -> None:
    device, other = await _join(fleet), await _join(fleet)
    async with store.session() as session:
        session.add(_row(other, "a", 1, 1))
        session.add_all(_row(device, *key, end) for key, end in items.items())
    found: list[Prediction] = []
    after: str | None = ""
    while after is not None:
        page = await fleet.predictions(device, after, limit)
        assert 0 < len(page.items) <= limit or not items
        found += page.items
        after = page.next
    keys = [(item.window_end, item.sequence, item.top_sensors[0]) for item in found]
    assert keys == sorted((end, item, epoch) for (epoch, item), end in items.items())


@pytest.mark.parametrize("cursor", ["x", "1", "1:", "1:x:y"])
async def test_a_cursor_of_nobody_is_refused(fleet: Fleet, cursor: str) -> None:
    device = await _join(fleet)
    with pytest.raises(MalformedMessageError, match="next"):
        await fleet.predictions(device, cursor)
