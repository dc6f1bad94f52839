"""Device tokens: ES256 JWTs that a device signs with the key of its certificate (RFC 7519, 7518).

Servers do not show the app a TLS client certificate, so over HTTP a device proves its key by a
short-lived signature. The public key comes from the certificate in the store, never from the token.
"""

from datetime import UTC, datetime

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from aimass_cloud.access.cache import Recent
from aimass_cloud.access.principal import DEVICE_SCOPES, Principal
from aimass_cloud.store import Store
from aimass_cloud.store.tables import DeviceRow
from aimass_shared import identity
from aimass_shared.errors import UnauthenticatedError

CLOCK_TOLERANCE_S = 60
"""How far a device's clock may be off: added to both ends of a token's life."""


class _Known(msgspec.Struct, frozen=True):
    key: ec.EllipticCurvePublicKey
    expires: datetime


class DeviceTokens:
    """Checks tokens; a revoked device is refused after at most `cache_s` seconds."""

    def __init__(self, store: Store, *, cache_s: float = 5.0) -> None:
        self._store = store
        self._known: Recent[_Known] = Recent(self._load, cache_s)

    async def verify(self, token: str) -> Principal:
        """Which device made a token.

        Raises:
            UnauthenticatedError: it is forged, expired, too long-lived, for another audience, or
                of a device that is unknown, revoked or whose certificate has ended.
        """
        device = _claimed_device(token)
        known = await self._known.get(device)
        if known is None:
            raise UnauthenticatedError("the device is not enrolled (any more)")
        _check(token, known.key)
        if datetime.now(tz=UTC) > known.expires:
            raise UnauthenticatedError("the device's certificate has expired: enrol it again")
        return Principal("device", device, DEVICE_SCOPES)

    async def _load(self, device: str) -> _Known | None:
        async with self._store.reading() as session:
            row = await session.get(DeviceRow, device)
        if row is None or row.revoked:
            return None
        certificate = identity.load_certificate(row.certificate)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return None
        return _Known(key, certificate.not_valid_after_utc)


def _claimed_device(token: str) -> str:
    """Whom a token claims to be from: only good for looking up the key that can prove it."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise UnauthenticatedError("the credential is no API key and no device token") from error
    return str(claims.get("sub", ""))


def _check(token: str, key: ec.EllipticCurvePublicKey) -> None:
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=["ES256"],
            audience=identity.AUDIENCE,
            leeway=CLOCK_TOLERANCE_S,
            options={"require": ["aud", "exp", "iat", "sub"]},
        )
        life_s = int(claims["exp"]) - int(claims["iat"])
    except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError) as error:
        raise UnauthenticatedError(
            f"the token is not valid at this time ({error}): check the device's clock"
        ) from error
    except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError) as error:
        raise UnauthenticatedError("the token is not valid") from error
    if life_s > identity.TOKEN_SECONDS:
        raise UnauthenticatedError(f"a token may live {identity.TOKEN_SECONDS} s at most")
