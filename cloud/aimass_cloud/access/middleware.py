"""Authentication of every HTTP and WebSocket request, before routes, guards and bodies.

A good credential puts its `Principal` into `scope["user"]`; without one only the open paths are
reached. What a caller may do is asked for later: see `aimass_cloud.access.principal`.
"""

import re

from litestar.types import ASGIApp, Receive, Scope, Send

from aimass_cloud.access.attempts import Attempts
from aimass_cloud.access.keys import PREFIX, Keys
from aimass_cloud.access.principal import Principal
from aimass_cloud.access.tokens import DeviceTokens
from aimass_shared.errors import UnauthenticatedError

MAX_CREDENTIAL_BYTES = 4096
OPEN_PATHS = (
    r"(/v2)?/health/(live|ready)/?",
    r"/ca\.pem",
    r"/api/v1/enroll",
    r"/schema(/.*)?",
)
"""Paths that need no credential; each pattern must match the whole path."""


class AccessMiddleware:
    """Puts the caller into `scope["user"]`, or refuses.

    A caller with a good credential is never refused for the failures of others at its address
    (plants sit behind one address); one with a bad credential is, after `attempts` many.
    """

    def __init__(
        self,
        keys: Keys,
        tokens: DeviceTokens,
        attempts: Attempts,
        *,
        open_paths: tuple[str, ...] = OPEN_PATHS,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._attempts = attempts
        self._open = re.compile("|".join(f"(?:{pattern})" for pattern in open_paths))

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """Put this in front of an app, as Litestar's `middleware` wants it."""

        async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
            scope["user"] = await self._principal(scope)
            await app(scope, receive, send)

        return authenticated

    async def _principal(self, scope: Scope) -> Principal | None:
        if self._open.fullmatch(scope["path"]):
            return None
        credential = bearer(scope)
        address = peer(scope)
        try:
            return await self._verify(credential)
        except UnauthenticatedError:
            if credential:
                self._attempts.check(address)
                self._attempts.failed(address)
            raise

    async def _verify(self, credential: str) -> Principal:
        if not credential:
            raise UnauthenticatedError("send a credential: `Authorization: Bearer <key or token>`")
        if len(credential) > MAX_CREDENTIAL_BYTES:
            raise UnauthenticatedError("the credential is too long to be one")
        if credential.startswith(PREFIX):
            return await self._keys.verify(credential)
        return await self._tokens.verify(credential)


def bearer(scope: Scope) -> str:
    """The bearer credential of a request (RFC 6750), or "" if it carries none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, credential = value.decode("latin-1").partition(" ")
            return credential.strip() if scheme.lower() == "bearer" else ""
    return ""


def peer(scope: Scope) -> str:
    """The address of the TCP peer ("" where the server does not say)."""
    client = scope.get("client")
    return client[0] if client else ""
