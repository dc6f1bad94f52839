"""A certificate authority for these tests, and a bus for each of its names."""

import datetime as dt
import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aimass_cloud.broker import TlsFiles
from aimass_edge.bus import Bus, BusOptions, Will
from aimass_edge.bus import TlsFiles as BusTlsFiles
from aimass_shared.messages import BrokerAddress

Connect = Callable[..., Bus]


class Ca:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        ca = self._build(self._name, self._key.public_key())
        ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.path = folder / "ca.pem"
        signed = ca.sign(self._key, hashes.SHA256())
        self.path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder().issuer_name(self._name).subject_name(subject)
        builder = builder.public_key(key).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(hours=1))
        return builder.not_valid_after(now + dt.timedelta(hours=1))

    def files(self, name: str) -> TlsFiles:
        """Certificate and key of a common name; the host name is localhost for all."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        hosts = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(_loopback())]
        )
        built = self._build(subject, key.public_key()).add_extension(hosts, critical=False)
        signed = built.sign(self._key, hashes.SHA256())
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return TlsFiles(ca=self.path, certificate=certificate, key=private)


def _loopback() -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address("127.0.0.1")


@pytest.fixture
def ca(tmp_path: Path) -> Ca:
    return Ca(tmp_path)


@pytest.fixture
def connect(ca: Ca) -> Connect:
    """A bus with the certificate of `name`, connecting under `client_id` (the same by default)."""

    def make(
        address: BrokerAddress,
        name: str,
        *,
        client_id: str = "",
        expiry_s: int = 0,
        will: Will | None = None,
    ) -> Bus:
        files = ca.files(name)
        paths = (str(path) for path in (files.ca, files.certificate, files.key))
        tls = BusTlsFiles(*paths) if address.tls else None
        options = BusOptions(
            host=address.host,
            port=address.port,
            client_id=client_id or name,
            version=address.version,
            tls=tls,
            session_expiry_s=expiry_s,
        )
        return Bus(options, will=(lambda: will) if will else None)

    return make
