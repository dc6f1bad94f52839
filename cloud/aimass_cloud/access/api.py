"""Routes for API keys. Needs the dependency `keys`."""

import msgspec
from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from aimass_cloud.access.keys import KeyInfo, Keys, NewKey
from aimass_cloud.access.principal import ADMIN, requires


class NewKeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a key shall be called and may do."""

    name: str
    scopes: tuple[str, ...]


class KeysController(Controller):
    """API keys, for admins."""

    path = "/api/v1/keys"
    guards = (requires(ADMIN),)
    tags = ("keys",)

    @get()
    async def list_keys(self, keys: NamedDependency[Keys]) -> list[KeyInfo]:
        """All keys, without their secrets."""
        return await keys.list()

    @post()
    async def create_key(
        self, keys: NamedDependency[Keys], data: JSONBody[NewKeyRequest]
    ) -> NewKey:
        """A new key; its text is shown here and never again."""
        return await keys.create(data.name, data.scopes)

    @delete("/{key:str}")
    async def revoke_key(self, keys: NamedDependency[Keys], key: FromPath[str]) -> None:
        """End a key."""
        await keys.revoke(key)
