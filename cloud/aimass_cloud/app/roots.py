"""Which data and models a coordinator reads when a caller names a path: those below its roots.

Whoever may start a training may not read every file that the coordinator can.
"""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from aimass_shared.errors import InvalidSettingError

SETTING = "training.data_roots"


class DataRoots:
    """Folders and addresses of a store (`s3://bucket/folder`) below which data may be read."""

    def __init__(self, roots: Sequence[str], *, otherwise: Sequence[Path]) -> None:
        """Take the roots of the settings, and those that hold where the settings name none."""
        self._roots = tuple(roots) or tuple(str(path) for path in otherwise)

    def checked(self, address: str) -> str:
        """An address below a root, as it can be opened; "" (data that ship) stays.

        Raises:
            InvalidSettingError: it is not below a root; the detail names the setting.
        """
        if not address:
            return address
        found = next((one for root in self._roots if (one := _below(root, address))), None)
        if found is None:
            raise InvalidSettingError(
                f"{address} is not below {' or '.join(self._roots)}: the coordinator reads nothing"
                f" else. Name its folder in {SETTING}, or train where the data are:"
                " `aimass train --data PATH --out DIRECTORY`"
            )
        return found

    def path(self, directory: str) -> Path:
        """A folder on this machine below a root.

        Raises:
            InvalidSettingError: it is not below a root, or is not on this machine.
        """
        if not directory or _is_remote(directory):
            raise InvalidSettingError(f"{directory!r} is no folder on the coordinator's machine")
        return Path(self.checked(directory))


def _below(root: str, address: str) -> str:
    """The address if it is the root or below it, else ""."""
    if _is_remote(root) or _is_remote(address):
        inside = f"{address}/".startswith(f"{root.rstrip('/')}/")
        return address if inside and ".." not in address.split("/") else ""
    path = Path(address).resolve()  # links do not lead out of a root
    return str(path) if path.is_relative_to(Path(root).resolve()) else ""


def _is_remote(address: str) -> bool:
    return bool(urlsplit(address).scheme)
