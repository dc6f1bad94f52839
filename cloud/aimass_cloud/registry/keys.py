"""The private keys that sign releases: one ed25519 key a role, as a PEM file only we can read.

They are online keys of one coordinator. Offline root keys and thresholds are a later step; the
metadata's format has room for them.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import (
    CryptoSigner,
)

from aimass_cloud.models.files import write_whole
from aimass_shared.errors import StateCorruptError


class SigningKeys:
    """Keys in a folder, by role."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, role: str) -> CryptoSigner:
        """The key of a role, made now unless it is there: safe to repeat after a crash."""
        path = self._path(role)
        if not path.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_whole(path, pem)
        return self.load(role)

    def load(self, role: str) -> CryptoSigner:
        """The key of a role that has signed before.

        Raises:
            StateCorruptError: the file is gone or damaged. A new key would lock all devices out.
        """
        path = self._path(role)
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise StateCorruptError(
                f"the signing key {path} cannot be read ({error}): restore it from the backup of"
                " data_dir; without it the devices must be enrolled again"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise StateCorruptError(f"the signing key {path} is no ed25519 key")
        return CryptoSigner(key)

    def _path(self, role: str) -> Path:
        return self._folder / f"{role}.pem"
