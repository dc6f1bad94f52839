"""Who may do what over HTTP: API keys, device tokens, scopes, and errors as problem details."""

from aimass_cloud.access.api import KeysController
from aimass_cloud.access.attempts import Attempts
from aimass_cloud.access.keys import Keys
from aimass_cloud.access.middleware import AccessMiddleware, peer
from aimass_cloud.access.principal import Principal, authorize_scope, requires
from aimass_cloud.access.problems import EXCEPTION_HANDLERS
from aimass_cloud.access.tokens import DeviceTokens

__all__ = [
    "EXCEPTION_HANDLERS",
    "AccessMiddleware",
    "Attempts",
    "DeviceTokens",
    "Keys",
    "KeysController",
    "Principal",
    "authorize_scope",
    "peer",
    "requires",
]
