import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aimass_edge import enroll as enroll_module
from aimass_edge.enroll import Identity, enroll
from aimass_shared import errors, identity, messages
from aimass_shared.identity import JoinToken
from aimass_shared.messages import BrokerAddress, EnrollReply, EnrollRequest, Inventory
from aimass_shared.slices import Board

INVENTORY = Inventory(Board("raspberry-pi-5", 512.0, 3.0, 50.0), "aarch64", "3.11", "0.1", "ort")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
BROKER = BrokerAddress("127.0.0.1", 8883, tls=True)
NOW = datetime.now(tz=timezone.utc)


class Authority:
    """As much of a CA as a test needs."""

    def __init__(self) -> None:
        self.key = identity.new_key()
        self.pem = self.sign("ca", self.key.public_key(), ca=True)
        self.token = JoinToken(identity.ca_sha256(self.pem), "0123456789ab", "s" * 32)

    def sign(self, name: str, key: ec.EllipticCurvePublicKey, *, ca: bool = False) -> str:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named("ca"))
        builder = builder.public_key(key).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(NOW - timedelta(days=1))
        builder = builder.not_valid_after(NOW + timedelta(days=1))
        builder = builder.add_extension(
            x509.BasicConstraints(ca=ca, path_length=None), critical=True
        )
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        certificate = builder.add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


class Cloud:
    """The two routes of enrolment as plain ASGI; a test changes what they answer."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.ca = self.authority.pem
        self.seen: list[str] = []
        self.secrets: list[str] = []
        self.change: Mapping[str, str] = {}
        self.key: ec.EllipticCurvePublicKey | None = None
        self.status, self.problem = 201, b""
        self.hang = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.seen.append(f"{scope['method']} {scope['path']}")
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        if self.hang:
            await asyncio.sleep(60)
        status, answer = self._answer(scope["path"], body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/ca.pem":
            return 200, self.ca.encode()
        request = messages.decode(body, EnrollRequest)
        self.secrets.append(request.token)
        key = self.key or identity.check_csr(request.csr)
        reply = EnrollReply(
            device="press-1a2b3c",
            site="press",
            channel="stable",
            certificate=self.authority.sign("press-1a2b3c", key),
            ca=self.authority.pem,
            tuf_root='{"signed": {}}',
            broker=BROKER,
        )
        reply = msgspec.structs.replace(reply, **self.change)
        return self.status, self.problem or messages.encode(reply)


Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve an ASGI app with uvicorn, over TLS where `tls` names a certificate and its key."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(app: Cloud, tls: tuple[Path, Path] | None = None) -> str:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", ws="none", lifespan="off")
        if tls:
            config.ssl_certfile, config.ssl_keyfile = tls
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        running.append((server, task))
        while not server.started:
            assert not task.done(), "the server ended while it started"
            await asyncio.sleep(0.01)
        scheme = "https" if tls else "http"
        return f"{scheme}://localhost:{listener.getsockname()[1]}"

    yield start
    for server, task in running:
        server.should_exit = True
        await task


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def _join(url: str, cloud: Cloud, data_dir: Path, *, force: bool = False) -> Awaitable[Identity]:
    token = cloud.authority.token.text()
    return enroll(cloud_url=url, token=token, data_dir=data_dir, inventory=INVENTORY, force=force)


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _left(data_dir: Path) -> list[str]:
    return sorted(path.name for path in data_dir.iterdir()) if data_dir.exists() else []


async def test_a_device_gets_a_whole_and_private_identity(
    cloud: Cloud, serve: Serve, tmp_path: Path
) -> None:
    url = await serve(cloud)
    mine = await _join(f"{url}/", cloud, tmp_path / "data")
    assert (mine.device, mine.site, mine.channel) == ("press-1a2b3c", "press", "stable")
    assert (mine.cloud_url, mine.broker) == (url, BROKER)
    assert mine.tuf_root() == b'{"signed": {}}'
    assert cloud.seen == ["GET /ca.pem", "POST /api/v1/enroll"]
    assert _left(tmp_path / "data") == ["identity"]
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in mine.directory.iterdir()}
    names = ("device.key", "device.pem", "ca.pem", "root.json", "identity.json")
    assert files == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(mine.directory.stat().st_mode) == 0o700
    tls = mine.tls_files()
    assert _read(tls.ca).decode() == cloud.authority.pem
    certificate = identity.load_certificate(_read(tls.certificate).decode())
    key = identity.load_key(_read(tls.key))
    assert certificate.public_key() == key.public_key()
    again = Identity.load(tmp_path / "data")
    assert (again.device, again.broker) == (mine.device, mine.broker)


async def test_the_secret_is_not_sent_to_another_ca(
    cloud: Cloud, serve: Serve, tmp_path: Path
) -> None:
    url = await serve(cloud)
    for ca in (Authority().pem, "no certificate", ""):
        cloud.ca = ca
        with pytest.raises(errors.BadJoinTokenError, match="CA"):
            await _join(url, cloud, tmp_path / "data")
    cloud.ca = "x" * 100_000
    with pytest.raises(errors.BodyTooLargeError):
        await _join(url, cloud, tmp_path / "data")
    assert cloud.secrets == []
    assert _left(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://cloud.example:8080", "in the clear"),
        ("http://192.0.2.1", "in the clear"),
        ("ftp://127.0.0.1", "no http"),
        ("127.0.0.1:8080", "no http"),
    ],
)
async def test_a_url_that_is_not_safe_is_refused(
    cloud: Cloud, tmp_path: Path, url: str, why: str
) -> None:
    with pytest.raises(errors.InvalidSettingError, match=why):
        await _join(url, cloud, tmp_path)


async def test_over_https_only_the_pinned_ca_is_trusted(
    cloud: Cloud, serve: Serve, tmp_path: Path
) -> None:
    for authority, works in ((cloud.authority, True), (Authority(), False)):
        key = identity.new_key()
        files = tmp_path / "server.pem", tmp_path / "server.key"
        files[0].write_text(authority.sign("server", key.public_key()))
        files[1].write_bytes(identity.key_pem(key))
        cloud.secrets.clear()
        url = await serve(cloud, files)
        data_dir = tmp_path / f"data-{works}"
        if works:
            assert (await _join(url, cloud, data_dir)).cloud_url == url
        else:  # it shows the right CA's certificate, but cannot prove to be of it
            with pytest.raises(errors.CloudUnavailableError, match="certificate verify failed"):
                await _join(url, cloud, data_dir)
            assert cloud.secrets == []


async def test_an_identity_is_replaced_only_by_force(
    cloud: Cloud, serve: Serve, tmp_path: Path
) -> None:
    url = await serve(cloud)
    first = (await _join(url, cloud, tmp_path)).tls_files()
    key = _read(first.key)
    cloud.seen.clear()
    with pytest.raises(errors.ConflictError, match="--force"):
        await _join(url, cloud, tmp_path)
    assert (cloud.seen, _read(first.key)) == ([], key)
    cloud.change = {"device": "press-9"}
    with pytest.raises(errors.BadSignatureError):
        await _join(url, cloud, tmp_path, force=True)
    assert _read(first.key) == key
    cloud.change = {"channel": "beta"}
    assert (await _join(url, cloud, tmp_path, force=True)).channel == "beta"
    assert _read(first.key) != key
    assert _left(tmp_path) == ["identity"]


async def test_a_reply_that_the_ca_does_not_prove_is_refused(
    cloud: Cloud, serve: Serve, tmp_path: Path
) -> None:
    url, data_dir = await serve(cloud), tmp_path / "data"
    foreign = Authority()
    for change, error in (
        ({"certificate": foreign.sign("press-1a2b3c", cloud.authority.key.public_key())}, "signed"),
        ({"certificate": "no certificate"}, "cannot be read"),
        ({"device": "press-9"}, "not that of press-9"),
    ):
        cloud.change = change
        with pytest.raises(errors.BadSignatureError, match=error):
            await _join(url, cloud, data_dir)
    cloud.change = {"ca": foreign.pem}
    with pytest.raises(errors.BadJoinTokenError, match="CA"):
        await _join(url, cloud, data_dir)
    cloud.change = {"device": "../../etc"}
    with pytest.raises(errors.MalformedMessageError, match="device"):
        await _join(url, cloud, data_dir)
    cloud.change, cloud.key = {}, foreign.key.public_key()
    with pytest.raises(errors.BadSignatureError, match="another key"):
        await _join(url, cloud, data_dir)
    assert _left(data_dir) == []


REFUSALS: list[tuple[int, bytes, type[errors.AimassError]]] = [
    (401, b'{"code": "bad-join-token", "detail": "was used"}', errors.BadJoinTokenError),
    (429, b'{"code": "too-many-attempts", "detail": "wait"}', errors.TooManyAttemptsError),
    (500, b'{"code": "internal", "detail": "a defect"}', errors.AimassError),
    (404, b"<html>not here</html>", errors.CloudUnavailableError),
    (302, b"", errors.CloudUnavailableError),
    (201, b"{}", errors.MalformedMessageError),
    (201, b"x" * 300_000, errors.BodyTooLargeError),
]


async def test_a_refusal_is_told_as_it_was_meant(
    cloud: Cloud, serve: Serve, tmp_path: Path
) -> None:
    url = await serve(cloud)
    for cloud.status, body, error in REFUSALS:
        cloud.problem = body or b" "
        with pytest.raises(error) as caught:
            await _join(url, cloud, tmp_path / "data")
        assert caught.type is error
        assert cloud.authority.token.secret not in str(caught.value)
        assert _left(tmp_path / "data") == []


async def test_a_coordinator_that_is_away_or_hangs_is_an_error_in_time(
    cloud: Cloud,
    serve: Serve,
    tmp_path: Path,
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(errors.CloudUnavailableError):
        await _join(f"http://127.0.0.1:{free_port()}", cloud, tmp_path / "data")
    monkeypatch.setattr(enroll_module, "DEADLINE_S", 0.2)
    cloud.hang = True
    with pytest.raises(errors.CloudUnavailableError):
        await _join(await serve(cloud), cloud, tmp_path / "data")
    assert _left(tmp_path / "data") == []


async def test_a_disk_that_refuses_costs_no_token(
    cloud: Cloud, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(errors.StorageError, match="data-dir"):
        await _join(await serve(cloud), cloud, tmp_path / "file")
    assert cloud.seen == []


async def test_a_key_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "device.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        enroll_module._write(tmp_path / "device.key", b"secret")
    assert not (tmp_path / "elsewhere").exists()


async def test_a_missing_or_damaged_identity_says_what_to_do(
    cloud: Cloud, serve: Serve, tmp_path: Path
) -> None:
    with pytest.raises(errors.NotFoundError, match="aimass-edge enroll"):
        Identity.load(tmp_path)
    mine = await _join(await serve(cloud), cloud, tmp_path)
    for name in ("identity.json", "device.key"):
        path = mine.directory / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(errors.StateCorruptError, match="--force"):
            Identity.load(tmp_path)
        path.write_bytes(whole)
    (mine.directory / "root.json").unlink()
    with pytest.raises(errors.StateCorruptError):
        Identity.load(tmp_path).tuf_root()


async def test_the_bearer_proves_the_device_and_is_renewed_in_time(
    cloud: Cloud, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = await _join(await serve(cloud), cloud, tmp_path)
    pem = _read(mine.tls_files().certificate).decode()
    key = identity.load_certificate(pem).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    first = mine.bearer()
    claims = jwt.decode(first, key, algorithms=["ES256"], audience="aimass")
    assert claims["sub"] == mine.device
    assert claims["exp"] - claims["iat"] == identity.TOKEN_SECONDS
    assert mine.bearer() == first
    for moved in (241, -10):  # near its end; and after the clock was set back
        at = claims["iat"] + moved
        monkeypatch.setattr("time.time", lambda at=at: float(at))
        renewed = jwt.decode(mine.bearer(), options={"verify_signature": False})
        assert renewed["iat"] == at
