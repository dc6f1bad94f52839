import asyncio
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from aimass_cloud.fleet.ca import (
    COORDINATOR,
    Authority,
    TlsPaths,
    local_hosts,
    new_authority,
    open_authority,
    write_service_files,
)
from aimass_shared import identity
from aimass_shared.errors import StateCorruptError


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_ca_is_made_once_and_only_we_can_read_its_key(tmp_path: Path) -> None:
    first = open_authority(tmp_path / "ca")
    again = open_authority(tmp_path / "ca")
    assert again.pem == first.pem
    assert (_mode(tmp_path / "ca"), _mode(tmp_path / "ca" / "ca.key")) == (0o700, 0o600)
    assert open_authority(tmp_path / "other").sha256 != first.sha256


@pytest.mark.parametrize("keep", [0, 100, 400])
def test_a_damaged_ca_is_never_replaced(tmp_path: Path, keep: int) -> None:
    open_authority(tmp_path)
    path = tmp_path / "ca.key"
    damaged = path.read_bytes()[:keep]
    path.write_bytes(damaged)
    with pytest.raises(StateCorruptError, match="restore"):
        open_authority(tmp_path)
    assert path.read_bytes() == damaged


def test_a_key_and_a_certificate_of_two_cas_are_no_ca() -> None:
    key, pem = new_authority().to_bytes(), new_authority().pem
    mixed = key[: key.index(b"-----BEGIN CERT")] + pem.encode()
    with pytest.raises(StateCorruptError, match="differ"):
        Authority.from_bytes(mixed)


def test_a_device_certificate_says_who_and_what_for() -> None:
    authority, key = new_authority(), identity.new_key().public_key()
    certificate = identity.load_certificate(authority.device(key, "press-1a2b3c", days=30))
    now = datetime.now(tz=UTC)
    identity.check_certificate(
        certificate, ca=authority.certificate, key=key, device="press-1a2b3c", now=now
    )
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://aimass/device/press-1a2b3c")]
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc - now <= timedelta(days=30)


def test_no_certificate_outlives_its_ca() -> None:
    authority, key = new_authority(), identity.new_key().public_key()
    certificate = identity.load_certificate(authority.device(key, "press-1", days=100_000))
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_service_files_are_made_anew_and_their_keys_are_private(tmp_path: Path) -> None:
    authority = new_authority()
    found = set()
    for _ in range(2):
        paths = write_service_files(authority, tmp_path, COORDINATOR, purpose="client")
        found.add(paths.certificate.read_text())
    assert len(found) == 2
    assert (_mode(paths.key), _mode(paths.certificate)) == (0o600, 0o644)
    assert identity.common_name(identity.load_certificate(paths.certificate.read_text())) == (
        "coordinator"
    )


def test_a_server_is_reached_by_loopback_and_by_its_own_name() -> None:
    assert {"127.0.0.1", "::1", "localhost", "plant.example"} <= set(local_hosts("plant.example"))
    assert not {"0.0.0.0", ""} & set(local_hosts("0.0.0.0"))  # noqa: S104  what must not be there


async def _handshake(server: TlsPaths, client: TlsPaths, host: str) -> str:
    """One connection with mutual TLS as strict as the platform can; who the server saw."""
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert")
        seen.set_result(dict(part[0] for part in certificate["subject"])["commonName"])
        writer.close()

    inside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=server.ca)
    inside.load_cert_chain(server.certificate, server.key)
    inside.verify_mode = ssl.CERT_REQUIRED
    outside = ssl.create_default_context(cafile=client.ca)
    outside.load_cert_chain(client.certificate, client.key)
    for context in (inside, outside):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=inside)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        _reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=outside, server_hostname=host
        )
        writer.close()
        return await asyncio.wait_for(seen, 5)


async def test_tls_peers_accept_each_other_and_nobody_else(tmp_path: Path) -> None:
    ours, foreign = new_authority(), new_authority()
    hosts = local_hosts("")
    server = write_service_files(ours, tmp_path / "a", "broker", purpose="server", hosts=hosts)
    client = write_service_files(ours, tmp_path / "a", COORDINATOR, purpose="client")
    for host in ("127.0.0.1", "localhost"):
        assert await _handshake(server, client, host) == "coordinator"
    with pytest.raises(ssl.SSLCertVerificationError):
        await _handshake(server, client, "elsewhere.example")
    impostor = write_service_files(foreign, tmp_path / "b", "broker", purpose="server", hosts=hosts)
    with pytest.raises(ssl.SSLCertVerificationError):
        await _handshake(impostor, client, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):  # a client's certificate is no server's
        await _handshake(client, client, "localhost")
