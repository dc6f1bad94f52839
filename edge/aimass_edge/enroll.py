"""How a device gets its identity, and the identity it then has.

`enroll` talks to the coordinator once: it checks the CA against the join token before it sends the
token's secret, keeps the private key on the device, and leaves a whole identity directory or none.
`Identity` reads that directory. Renewal of certificates is not done here.
"""

import ipaddress
import logging
import os
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from aimass_edge.bus import TlsFiles
from aimass_shared import identity, topics
from aimass_shared.errors import (
    AimassError,
    BadSignatureError,
    BodyTooLargeError,
    CloudUnavailableError,
    ConflictError,
    InvalidSettingError,
    MalformedMessageError,
    NotFoundError,
    StateCorruptError,
    StorageError,
)
from aimass_shared.identity import JoinToken
from aimass_shared.messages import (
    BrokerAddress,
    EnrollReply,
    EnrollRequest,
    Inventory,
    Message,
    decode,
    encode,
)

logger = logging.getLogger(__name__)

DIRECTORY = "identity"
DEADLINE_S = 30.0
RENEW_BEFORE_S = 60
"""A JWT is replaced this long before it ends, so that none ends on its way."""
MAX_REPLY_BYTES = 256 << 10
MAX_DETAIL_CHARACTERS = 500


class IdentityRecord(Message, frozen=True, kw_only=True):
    """`identity.json`: what the coordinator told the device about itself and where to connect."""

    device: str
    site: str
    channel: str
    cloud_url: str
    broker: BrokerAddress


class Identity:
    """Who this device is. `directory` holds device.key, device.pem, ca.pem and root.json."""

    def __init__(
        self, directory: Path, record: IdentityRecord, key: ec.EllipticCurvePrivateKey
    ) -> None:
        self.directory = directory
        self.device = record.device
        self.site = record.site
        self.channel = record.channel
        self.cloud_url = record.cloud_url
        self.broker = record.broker
        self._key = key
        self._token = ""
        self._issued = 0

    @staticmethod
    def load(data_dir: Path) -> "Identity":
        """Read the identity of a data directory.

        Raises:
            NotFoundError: the device was not enrolled.
            StateCorruptError: the identity is damaged.
        """
        directory = data_dir / DIRECTORY
        if not directory.is_dir():
            raise NotFoundError(f"no identity in {data_dir}: run `aimass-edge enroll` first")
        try:
            record = decode((directory / "identity.json").read_bytes(), IdentityRecord)
            key = identity.load_key((directory / "device.key").read_bytes())
        except (OSError, MalformedMessageError) as error:
            raise StateCorruptError(
                f"the identity in {directory} is damaged ({error}): enrol again with --force"
            ) from error
        return Identity(directory, record, key)

    def bearer(self) -> str:
        """A JWT (ES256) that proves this device to the coordinator, made anew when needed."""
        now = int(time.time())
        if not self._issued <= now < self._issued + identity.TOKEN_SECONDS - RENEW_BEFORE_S:
            claims = {
                "sub": self.device,
                "aud": identity.AUDIENCE,
                "iat": now,
                "exp": now + identity.TOKEN_SECONDS,
            }
            self._token = jwt.encode(claims, self._key, algorithm="ES256")
            self._issued = now
        return self._token

    def tls_files(self) -> TlsFiles:
        """Whom to trust and what to show in TLS: to the fleet's broker, and to an https cloud."""
        return TlsFiles(
            ca=str(self.directory / "ca.pem"),
            certificate=str(self.directory / "device.pem"),
            key=str(self.directory / "device.key"),
        )

    def tuf_root(self) -> bytes:
        """The TUF root that the coordinator gave at enrolment: the start of all trust in releases.

        Raises:
            StateCorruptError: it cannot be read.
        """
        try:
            return (self.directory / "root.json").read_bytes()
        except OSError as error:
            raise StateCorruptError(f"cannot read {self.directory}/root.json: {error}") from error


async def enroll(
    *, cloud_url: str, token: str, data_dir: Path, inventory: Inventory, force: bool = False
) -> Identity:
    """Join the fleet of a coordinator and keep the identity that it gives.

    Args:
        cloud_url: address of the coordinator's API; http only to this machine itself.
        token: one-time join token.
        data_dir: where `identity/` goes.
        inventory: what this device is.
        force: replace an identity that is there.

    Raises:
        ConflictError: there is an identity and `force` is not set.
        BadJoinTokenError: the token is malformed, not good (any more), or of another CA.
        InvalidSettingError: the URL would send the secret in the clear.
        CloudUnavailableError: the coordinator did not answer in time.
        BadSignatureError: the certificate that came is not ours.
        StorageError: the identity could not be written; nothing is left of it.
    """
    permit = JoinToken.parse(token)
    base = _checked_url(cloud_url)
    target = data_dir / DIRECTORY
    if target.exists() and not force:
        raise ConflictError(f"there is an identity in {target}: use --force to replace it")
    key = identity.new_key()
    with _disk_errors(), _new_directory(data_dir) as directory:
        _write(directory / "device.key", identity.key_pem(key))  # a full disk costs no token
        ca = await _fetch_ca(base)
        identity.check_ca(ca, permit)
        request = EnrollRequest(
            token=permit.text(), csr=identity.make_csr(key), inventory=inventory
        )
        reply = await _ask(base, ca, request)
        _check_reply(reply, permit, key.public_key())
        _fill(directory, reply, base)
        _move(directory, target)
    logger.info("enrolled as %s", reply.device)
    return Identity.load(data_dir)


def _checked_url(text: str) -> str:
    """The URL without a trailing slash, if the join token's secret is safe on the way."""
    url = urlsplit(text)
    host = url.hostname or ""
    if url.scheme not in {"http", "https"} or not host:
        raise InvalidSettingError(f"--cloud {text!r} is no http(s) URL")
    if url.scheme == "http" and not _is_loopback(host):
        raise InvalidSettingError(f"--cloud {text!r} would send the token in the clear: use https")
    return text.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _fetch_ca(base: str) -> str:
    """The CA of whoever answers: the join token says whether it is the right one."""
    raw = await _exchange("GET", f"{base}/ca.pem", _unverified(), limit=identity.MAX_PEM_BYTES)
    return raw.decode("ascii", "replace")


async def _ask(base: str, ca: str, request: EnrollRequest) -> EnrollReply:
    """Send the secret, over https only to a server with a certificate of that CA."""
    context = ssl.create_default_context(cadata=ca)
    raw = await _exchange("POST", f"{base}/api/v1/enroll", context, body=encode(request))
    return decode(raw, EnrollReply)


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _exchange(
    method: str,
    url: str,
    context: ssl.SSLContext,
    *,
    body: bytes = b"",
    limit: int = MAX_REPLY_BYTES,
) -> bytes:
    """One request with a deadline and a limit; the body of a good answer."""
    headers = {"Content-Type": "application/json"} if body else {}
    raw = bytearray()
    try:
        with anyio.fail_after(DEADLINE_S):
            async with (
                httpx.AsyncClient(verify=context) as client,
                client.stream(method, url, content=body or None, headers=headers) as response,
            ):
                async for chunk in response.aiter_bytes():
                    raw += chunk
                    if len(raw) > limit:
                        raise BodyTooLargeError(f"{url} answered more than {limit} bytes")
    except (httpx.HTTPError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        raise CloudUnavailableError(f"no answer from {url}: {why}") from error
    if not response.is_success:
        raise _problem(url, response.status_code, bytes(raw))
    return bytes(raw)


class _Problem(msgspec.Struct):
    code: str = ""
    detail: str = ""


def _problem(url: str, status: int, raw: bytes) -> AimassError:
    """The coordinator's error as the same class on our side, or what can be said of it."""
    try:
        problem = msgspec.json.decode(raw, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    for kind in _tree(AimassError):
        if problem.code and kind.code == problem.code:
            return kind(problem.detail[:MAX_DETAIL_CHARACTERS])
    return CloudUnavailableError(f"{url} answered {status}: is it the coordinator's address?")


def _tree(kind: type[AimassError]) -> Iterator[type[AimassError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def _check_reply(reply: EnrollReply, permit: JoinToken, key: ec.EllipticCurvePublicKey) -> None:
    """Believe nothing of the reply that the pinned CA does not prove."""
    topics.check_segment(reply.device, "device")
    identity.check_ca(reply.ca, permit)
    try:
        certificate = identity.load_certificate(reply.certificate)
    except MalformedMessageError as error:
        raise BadSignatureError(f"the certificate cannot be read: {error.detail}") from error
    identity.check_certificate(
        certificate,
        ca=identity.load_certificate(reply.ca),
        key=key,
        device=reply.device,
        now=datetime.now(tz=timezone.utc),
    )


def _fill(directory: Path, reply: EnrollReply, cloud_url: str) -> None:
    record = IdentityRecord(
        device=reply.device,
        site=reply.site,
        channel=reply.channel,
        cloud_url=cloud_url,
        broker=_reachable(reply.broker, cloud_url),
    )
    _write(directory / "device.pem", reply.certificate.encode())
    _write(directory / "ca.pem", reply.ca.encode())
    _write(directory / "root.json", reply.tuf_root.encode())
    _write(directory / "identity.json", encode(record))
    _sync(directory)


def _reachable(broker: BrokerAddress, cloud_url: str) -> BrokerAddress:
    """The broker's address; without a host of its own it is where the coordinator is."""
    host = broker.host or urlsplit(cloud_url).hostname or ""
    return BrokerAddress(host=host, port=broker.port, tls=broker.tls, version=broker.version)


def _write(path: Path, data: bytes) -> None:
    """A new private file, durable when this returns; never through a link or over a file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _move(directory: Path, target: Path) -> None:
    """Put the new identity in its place; the old one goes only when the new one is there."""
    replaced = target.with_name(f"{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    directory.rename(target)
    _sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _new_directory(data_dir: Path) -> Iterator[Path]:
    """A private directory in `data_dir` that is gone at the end, unless it was moved."""
    data_dir.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{DIRECTORY}.new-", dir=data_dir))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the identity could not be written: {error.strerror} ({error.filename});"
            " nothing was left behind: check --data-dir and its rights"
        ) from error
