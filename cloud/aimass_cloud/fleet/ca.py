"""The coordinator's certificate authority: what it signs, and the files it lives in.

`Authority` is pure: a key, a certificate and the rules of what they sign. `open_authority` and
`write_service_files` do the I/O. The CA is made once and lives ten years; what it signs for
devices lives days, what it signs for our own services is made anew at each start.
"""

import contextlib
import ipaddress
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aimass_cloud.config import ANY_ADDRESS
from aimass_cloud.store.blobs import sync_directory
from aimass_shared import identity
from aimass_shared.errors import MalformedMessageError, StateCorruptError

CA_DAYS = 3650
SERVICE_DAYS = 365
BACKDATE = timedelta(hours=1)
"""How far a device's clock may be behind ours when it looks at its new certificate."""
COORDINATOR = "coordinator"
"""Common name of our own client certificate: the broker's ACL gives it the whole fleet tree."""

Purpose = Literal["client", "server"]
_PURPOSES = {
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
}


class TlsPaths(NamedTuple):
    """Files of one TLS identity: whom it trusts, what it shows, what it proves that with."""

    ca: Path
    certificate: Path
    key: Path


class Authority:
    """A CA: signs end-entity certificates with names that the coordinator chose."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate = certificate

    @property
    def pem(self) -> str:
        """The CA's certificate, as `GET /ca.pem` serves it."""
        return _pem(self.certificate)

    @property
    def sha256(self) -> str:
        """What join tokens name the CA by."""
        return identity.ca_sha256(self.pem)

    def to_bytes(self) -> bytes:
        """Key and certificate as PEM; the caller guards the file."""
        return identity.key_pem(self._key) + self.pem.encode()

    @staticmethod
    def from_bytes(raw: bytes) -> "Authority":
        """Read what `to_bytes` gave.

        Raises:
            StateCorruptError: it is not a key and its certificate.
        """
        try:
            key = identity.load_key(raw)
            certificate = identity.load_certificate(raw.decode("ascii", "replace"))
        except MalformedMessageError as error:
            raise StateCorruptError("the CA's key file is damaged: restore it") from error
        if certificate.public_key() != key.public_key():
            raise StateCorruptError("the CA's key and certificate differ: restore the key file")
        return Authority(key, certificate)

    def device(self, key: ec.EllipticCurvePublicKey, device: str, days: int) -> str:
        """A device's certificate (PEM): client only, and with its SPIFFE id."""
        name = x509.UniformResourceIdentifier(f"spiffe://aimass/device/{device}")
        return self._sign(key, device, "client", names=[name], days=days)

    def service(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        *,
        purpose: Purpose,
        hosts: Sequence[str],
    ) -> str:
        """A certificate (PEM) of one of our own services, valid for `hosts`."""
        return self._sign(key, name, purpose, names=[_host(h) for h in hosts], days=SERVICE_DAYS)

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        purpose: Purpose,
        *,
        names: Sequence[x509.GeneralName],
        days: int,
    ) -> str:
        now = datetime.now(tz=UTC)
        end = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        builder = _builder(name, self.certificate.subject, key).not_valid_before(now - BACKDATE)
        builder = builder.not_valid_after(end)
        for extension, critical in _common(self._key, ca=False):
            builder = builder.add_extension(extension, critical)
        eku = x509.ExtendedKeyUsage([_PURPOSES[purpose]])
        builder = builder.add_extension(eku, critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _pem(builder.sign(self._key, hashes.SHA256()))


def new_authority() -> Authority:
    """A fresh CA that can sign end entities only (path length 0)."""
    key, now = identity.new_key(), datetime.now(tz=UTC)
    name = f"aimass CA {secrets.token_hex(4)}"
    builder = _builder(name, _name(name), key.public_key()).not_valid_before(now - BACKDATE)
    builder = builder.not_valid_after(now + timedelta(days=CA_DAYS))
    for extension, critical in _common(key, ca=True):
        builder = builder.add_extension(extension, critical)
    return Authority(key, builder.sign(key, hashes.SHA256()))


def open_authority(directory: Path) -> Authority:
    """The CA of a data directory, made at the first call.

    Key and certificate are one file, so that there is never one without the other.

    Raises:
        StateCorruptError: the file is damaged: devices trust this CA, so a new one is never made
            in its place.
    """
    path = directory / "ca.key"
    if not path.exists():
        _write(path, new_authority().to_bytes())
    return Authority.from_bytes(path.read_bytes())


def write_service_files(
    authority: Authority,
    directory: Path,
    name: str,
    *,
    purpose: Purpose,
    hosts: Sequence[str] = (),
) -> TlsPaths:
    """Make a fresh key and certificate for one of our services; the paths of `<name>.{pem,key}`.

    Args:
        authority: who signs.
        directory: where the files go; the CA's certificate is written beside them.
        name: common name and file name.
        purpose: "server" for a listener, "client" for the coordinator's own MQTT connection.
        hosts: names and addresses by which clients reach a server.
    """
    key = identity.new_key()
    paths = TlsPaths(directory / "ca.pem", directory / f"{name}.pem", directory / f"{name}.key")
    _write(paths.key, identity.key_pem(key))
    certificate = authority.service(key.public_key(), name, purpose=purpose, hosts=hosts)
    _write(paths.certificate, certificate.encode(), mode=0o644)
    _write(paths.ca, authority.pem.encode(), mode=0o644)
    return paths


def local_hosts(host: str) -> tuple[str, ...]:
    """What a server certificate of this machine is valid for: loopback, and `host`."""
    mine = () if not host or host in ANY_ADDRESS else (host,)
    return tuple(dict.fromkeys(("127.0.0.1", "::1", "localhost", os.uname().nodename, *mine)))


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(issuer)
    builder = builder.public_key(key).serial_number(x509.random_serial_number())
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _common(
    issuer: ec.EllipticCurvePrivateKey, *, ca: bool
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """What every certificate carries (RFC 5280, 4.2.1), and whether it is critical."""
    yield x509.BasicConstraints(ca=ca, path_length=0 if ca else None), True
    yield _usage(ca=ca), True
    yield x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file atomically and durably; never readable by others before its mode says so."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fchmod(handle.fileno(), mode)
            os.fsync(handle.fileno())
        Path(name).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    sync_directory(path.parent)
