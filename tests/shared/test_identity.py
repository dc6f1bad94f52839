from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared import identity
from aimass_shared.errors import (
    BadJoinTokenError,
    BadSignatureError,
    MalformedMessageError,
)
from aimass_shared.identity import JoinToken

NOW = datetime(2026, 11, 25, tzinfo=timezone.utc)
DAY = timedelta(days=1)
CA_KEY, DEVICE_KEY = identity.new_key(), identity.new_key()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: str,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey = CA_KEY,
    issuer: str = "ca",
) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer))
    builder = builder.public_key(key).serial_number(1).not_valid_before(NOW - DAY)
    return builder.not_valid_after(NOW + DAY).sign(signer, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


CA = _certificate("ca", CA_KEY.public_key())
TOKEN = JoinToken(identity.ca_sha256(_pem(CA)), "0123456789ab", "s" * 32)


@given(
    st.builds(
        JoinToken,
        st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
        st.from_regex(r"[A-Za-z0-9_-]{32,64}", fullmatch=True),
    )
)
def test_a_token_survives_being_copied(token: JoinToken) -> None:
    assert JoinToken.parse(f"  {token.text()}\n") == token


@given(st.integers(0, len(TOKEN.text()) - 1), st.characters(codec="utf-8"))
def test_a_token_with_a_changed_character_is_refused_or_another_token(at: int, char: str) -> None:
    text = TOKEN.text()
    changed = text[:at] + char + text[at + 1 :]
    try:
        found = JoinToken.parse(changed)
    except BadJoinTokenError:
        return
    assert (found == TOKEN) == (changed == text)


@pytest.mark.parametrize("text", ["", "aimass-join", TOKEN.text()[:-1], TOKEN.text() + ".x"])
def test_what_is_no_token_says_so_without_repeating_it(text: str) -> None:
    with pytest.raises(BadJoinTokenError, match="no join token") as caught:
        JoinToken.parse(text)
    assert TOKEN.secret[:-1] not in str(caught.value)


def test_a_token_does_not_print_its_secret() -> None:
    assert TOKEN.secret not in f"{TOKEN} {TOKEN!r}"


def test_a_key_survives_its_pem() -> None:
    again = identity.load_key(identity.key_pem(DEVICE_KEY))
    assert again.private_numbers() == DEVICE_KEY.private_numbers()


P384_PEM = ec.generate_private_key(ec.SECP384R1()).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
LOCKED_PEM = DEVICE_KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"x"),
)


@pytest.mark.parametrize("pem", [b"", b"no pem", P384_PEM, LOCKED_PEM])
def test_other_keys_are_refused(pem: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="key"):
        identity.load_key(pem)


def test_a_csr_proves_its_key_and_asks_for_no_name() -> None:
    pem = identity.make_csr(DEVICE_KEY)
    found = identity.check_csr(pem)
    assert identity.public_bytes(found) == identity.public_bytes(DEVICE_KEY.public_key())
    assert list(x509.load_pem_x509_csr(pem.encode()).subject) == []


def _csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(_name("x"))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _stolen_csr() -> str:
    """A request for the device's key that another key signed."""
    mine = x509.load_pem_x509_csr(_csr(DEVICE_KEY).encode())
    der = bytearray(mine.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(der))
    return broken.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        ("", "parse"),
        ("x" * 20_000, "over"),
        (_csr(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (_csr(rsa.generate_private_key(65537, 2048)), "P-256"),
        (_stolen_csr(), "not signed"),
    ],
)
def test_other_requests_are_refused(pem: str, why: str) -> None:
    with pytest.raises(MalformedMessageError, match=why):
        identity.check_csr(pem)


def test_the_named_ca_is_accepted_however_it_is_wrapped() -> None:
    identity.check_ca(_pem(CA), TOKEN)
    identity.check_ca(f"subject=ca\n{_pem(CA)}\n\n", TOKEN)


@pytest.mark.parametrize(
    "pem", ["", "no pem", _pem(CA) * 2, _pem(_certificate("ca", CA_KEY.public_key()))]
)
def test_another_ca_is_refused(pem: str) -> None:
    with pytest.raises(BadJoinTokenError, match="CA"):
        identity.check_ca(pem, TOKEN)


def _check(certificate: x509.Certificate, now: datetime = NOW) -> None:
    identity.check_certificate(
        certificate, ca=CA, key=DEVICE_KEY.public_key(), device="press-1", now=now
    )


def test_a_good_certificate_passes() -> None:
    _check(_certificate("press-1", DEVICE_KEY.public_key()))


@pytest.mark.parametrize(
    ("certificate", "now", "why"),
    [
        (_certificate("press-1", DEVICE_KEY.public_key(), DEVICE_KEY), NOW, "not signed"),
        (_certificate("press-1", DEVICE_KEY.public_key(), issuer="other"), NOW, "not signed"),
        (_certificate("press-1", CA_KEY.public_key()), NOW, "another key"),
        (_certificate("press-2", DEVICE_KEY.public_key()), NOW, "not that of press-1"),
        (_certificate("press-1", DEVICE_KEY.public_key()), NOW + 2 * DAY, "clock"),
        (_certificate("press-1", DEVICE_KEY.public_key()), NOW - 2 * DAY, "clock"),
    ],
)
def test_a_certificate_that_is_not_ours_is_refused(
    certificate: x509.Certificate, now: datetime, why: str
) -> None:
    with pytest.raises(BadSignatureError, match=why):
        _check(certificate, now)
