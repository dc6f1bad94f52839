"""Who a caller is and what it may do: scopes, and the checks of them. No credentials, no database.

The middleware puts a `Principal` into `scope["user"]`; guards of Litestar routes and plain ASGI
apps such as `aimass_shared.inference` ask for a scope in the same way.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.types import Guard

from aimass_shared.errors import ForbiddenError, UnauthenticatedError

DEVICE_SCOPES = frozenset({"infer", "blob:read", "blob:write", "tuf:read", "measurement:write"})
"""What every enrolled device may do over HTTP."""
ADMIN = "admin"
"""The scope that contains all others, and the administration of keys."""
SCOPES = DEVICE_SCOPES | {
    "fleet:read",
    "fleet:write",
    "model:read",
    "model:write",
    "release:read",
    "release:write",
    "rollout:read",
    "rollout:write",
    "round:read",
    "round:write",
    ADMIN,
}


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller: an API key or a device, by its id."""

    kind: Literal["key", "device"]
    id: str
    scopes: frozenset[str]

    def allows(self, needed: str) -> bool:
        """Whether it has a scope, by name or because it is an admin."""
        return needed in self.scopes or ADMIN in self.scopes


def authorize_scope(scope: Mapping[str, Any], needed: str) -> Principal:
    """Check that the caller of an ASGI request has a scope; return who it is.

    Raises:
        UnauthenticatedError: nobody was authenticated.
        ForbiddenError: the caller has not that scope.
    """
    principal = scope.get("user")
    if not isinstance(principal, Principal):
        raise UnauthenticatedError("send a credential: `Authorization: Bearer <key or token>`")
    if not principal.allows(needed):
        raise ForbiddenError(f"{principal.kind} {principal.id} has not the scope {needed!r}")
    return principal


def requires(needed: str) -> Guard:
    """A Litestar guard that lets only callers with a scope pass.

    Raises:
        ValueError: there is no such scope (a mistake in the code, found at start).
    """
    if needed not in SCOPES:
        raise ValueError(f"there is no scope {needed!r}")

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        authorize_scope(connection.scope, needed)

    return guard
