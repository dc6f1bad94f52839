"""What a device's identity is made of: its key, its CSR, its certificate, the token that admits it.

Pure functions over bytes and text. The CA that signs is the coordinator's
(`aimass_cloud.fleet.ca`), the files are the device's (`aimass_edge.enroll`). Keys are P-256, as
every TLS stack, TPM and secure element has it; certificates follow RFC 5280, CSRs RFC 2986.
"""

import hashlib
import re
from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aimass_shared.errors import BadJoinTokenError, BadSignatureError, MalformedMessageError

AUDIENCE = "aimass"
"""`aud` of the JWTs (ES256) with which devices speak HTTP."""
TOKEN_SECONDS = 300
"""Lifetime of such a JWT; the coordinator refuses longer ones."""
MAX_PEM_BYTES = 16 << 10
_TOKEN = re.compile(r"aimass-join\.([0-9a-f]{64})\.([0-9a-f]{12})\.([A-Za-z0-9_-]{32,64})")


class JoinToken(msgspec.Struct, frozen=True):
    """A one-time permit for one device, which also names the CA it may trust.

    The device checks the coordinator's CA against `ca_sha256` before it sends `secret` (the idea
    of k3s's secure tokens, docs.k3s.io/cli/token). `repr` hides the secret.
    """

    ca_sha256: str
    id: str
    secret: str

    def text(self) -> str:
        """The token as people copy it."""
        return f"aimass-join.{self.ca_sha256}.{self.id}.{self.secret}"

    def __repr__(self) -> str:
        """The token without its secret, for logs and tracebacks."""
        return f"JoinToken({self.id})"

    @staticmethod
    def parse(text: str) -> "JoinToken":
        """Read a token.

        Raises:
            BadJoinTokenError: the text has not the form of one.
        """
        match = _TOKEN.fullmatch(text.strip())
        if match is None:
            raise BadJoinTokenError(
                "this is no join token: copy all of it, from `aimass-join.` to the end"
            )
        return JoinToken(*match.groups())


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as unencrypted PKCS8 PEM; the caller guards the file."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a private key.

    Raises:
        MalformedMessageError: it is no unencrypted P-256 key.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise MalformedMessageError("the key file holds no unencrypted PEM key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p256(key.curve):
        raise MalformedMessageError("the key is not a P-256 key")
    return key


def public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as DER, to compare with another."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def make_csr(key: ec.EllipticCurvePrivateKey) -> str:
    """A signing request (PEM) that proves possession of the key and asks for no name."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def check_csr(pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request; every name that it asks for is ignored.

    Raises:
        MalformedMessageError: it does not parse, is not signed by its own key, or not P-256.
    """
    if len(pem) > MAX_PEM_BYTES:
        raise MalformedMessageError(f"the CSR is over {MAX_PEM_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key, proven = request.public_key(), request.is_signature_valid
    except (ValueError, InvalidSignature) as error:
        raise MalformedMessageError("the CSR does not parse") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p256(key.curve):
        raise MalformedMessageError("the CSR's key must be a P-256 key")
    if not proven:
        raise MalformedMessageError("the CSR is not signed by the key that it carries")
    return key


def load_certificate(pem: str) -> x509.Certificate:
    """Read the one certificate of a PEM text.

    Raises:
        MalformedMessageError: the text is too long, or not exactly one certificate.
    """
    if len(pem) > MAX_PEM_BYTES:
        raise MalformedMessageError(f"the certificate is over {MAX_PEM_BYTES} bytes")
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise MalformedMessageError("the certificate does not parse") from error
    if len(found) != 1:
        raise MalformedMessageError(f"there are {len(found)} certificates where one belongs")
    return found[0]


def ca_sha256(pem: str) -> str:
    """SHA-256 (hex) of a CA certificate's DER, as `openssl x509 -fingerprint -sha256` has it.

    Raises:
        MalformedMessageError: the text is not exactly one certificate.
    """
    return hashlib.sha256(
        load_certificate(pem).public_bytes(serialization.Encoding.DER)
    ).hexdigest()


def check_ca(pem: str, token: JoinToken) -> None:
    """Check that a CA is the one that a join token names.

    Raises:
        BadJoinTokenError: it is another, or no certificate at all.
    """
    try:
        found = ca_sha256(pem)
    except MalformedMessageError as error:
        raise BadJoinTokenError(f"the server's CA cannot be checked: {error.detail}") from error
    if found != token.ca_sha256:
        raise BadJoinTokenError(
            f"the server's CA is {found[:16]}..., the token is for {token.ca_sha256[:16]}...:"
            " wrong server, or somebody in between; the secret was not sent"
        )


def common_name(certificate: x509.Certificate) -> str:
    """The certificate's common name, which is a device's id ("" if it has none)."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def check_certificate(
    certificate: x509.Certificate,
    *,
    ca: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    device: str,
    now: datetime,
) -> None:
    """Check that a certificate is `device`'s: signed by the CA, for this key, and valid now.

    Args:
        certificate: what the coordinator answered.
        ca: the CA that the join token named.
        key: the device's own.
        device: the id that the certificate must carry.
        now: time with a zone.

    Raises:
        BadSignatureError: it is not; the detail says what differs.
    """
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise BadSignatureError("the certificate was not signed by the coordinator's CA") from error
    found = certificate.public_key()
    if not isinstance(found, ec.EllipticCurvePublicKey) or public_bytes(found) != public_bytes(key):
        raise BadSignatureError("the certificate is for another key")
    if common_name(certificate) != device:
        raise BadSignatureError(f"the certificate is not that of {device}")
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise BadSignatureError(
            f"the certificate is valid from {certificate.not_valid_before_utc} to"
            f" {certificate.not_valid_after_utc}, it is {now} here: check the clock"
        )


def _is_p256(curve: ec.EllipticCurve) -> bool:
    return isinstance(curve, ec.SECP256R1)
