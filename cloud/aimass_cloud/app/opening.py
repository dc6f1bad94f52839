"""What a coordinator opens before anything of it runs: directory, database, URL of a broker.

Whatever is wrong with them is one clear error here, and no traceback of a library.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec
from alembic.util import CommandError
from sqlalchemy.exc import ArgumentError, DBAPIError

from aimass_cloud.config import ANY_ADDRESS, MqttSettings
from aimass_cloud.store import Store
from aimass_shared.claims import claimed
from aimass_shared.errors import (
    InvalidSettingError,
    MissingExtraError,
    StorageError,
)
from aimass_shared.messages import BrokerAddress

DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@contextmanager
def claimed_folder(directory: Path) -> Iterator[Path]:
    """The data directory, made if need be, for this process alone; gives its absolute path.

    Raises:
        ConflictError: another coordinator uses it.
        InvalidSettingError: it cannot be made or written to.
    """
    data = directory.absolute()
    held = f"another coordinator uses {data}: stop it, or choose --data-dir"
    with ExitStack() as stack:
        try:
            data.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(claimed(data / "lock", otherwise=held))
        except (OSError, StorageError) as error:
            raise InvalidSettingError(
                f"data_dir {data} cannot be used ({error}): choose another --data-dir"
            ) from error
        yield data


@asynccontextmanager
async def opened_store(url: str, data: Path) -> AsyncIterator[Store]:
    """The database at `url` with all tables; "" is SQLite in `data`.

    Raises:
        InvalidSettingError: the URL is none.
        MissingExtraError: the driver that it asks for is not installed.
        StorageError: the database does not answer, is damaged, or is of a newer version.
    """
    store = _store(url or f"sqlite+aiosqlite:///{data / 'aimass.db'}")
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(store)
            await store.migrate()
        except (DBAPIError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            raise StorageError(f"the database cannot be opened: {reason}") from error
        except CommandError as error:
            raise StorageError(
                f"the database is of another version of aimass, probably a newer one: {error}"
            ) from error
        yield store


def _store(url: str) -> Store:
    try:
        return Store(url)
    except ArgumentError as error:  # its message does not repeat the URL, which may hold a password
        raise InvalidSettingError(
            f"database_url must be such as sqlite+aiosqlite:///FILE: {error}"
        ) from error
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the driver of database_url is not installed: pip install {error.name}"
        ) from error


def broker_address(settings: MqttSettings) -> BrokerAddress:
    """Address of a broker that is already there.

    Raises:
        InvalidSettingError: the URL is not `mqtt://` or `mqtts://` with a host and nothing else.
    """
    try:
        url = urlsplit(settings.url)
        port = url.port
    except ValueError:
        url, port = SplitResult("", "", "", "", ""), None
    if url.scheme not in DEFAULT_PORTS or not url.hostname or "@" in url.netloc:
        # It is not repeated here: there may be a password in it.
        raise InvalidSettingError(
            "mqtt.url must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT], without a user: the broker"
            " knows the coordinator by its certificate"
        )
    tls = url.scheme == "mqtts"
    return BrokerAddress(host=url.hostname, port=port or DEFAULT_PORTS[url.scheme], tls=tls)


def told_to_devices(address: BrokerAddress) -> BrokerAddress:
    """A broker's address for other machines: without a host where it listens on every address.

    A device then takes the host by which it reaches the coordinator, which is known to work there.
    """
    return msgspec.structs.replace(address, host="") if address.host in ANY_ADDRESS else address


def reached_from_here(address: BrokerAddress) -> BrokerAddress:
    """A broker's address for this machine: loopback where it listens on every address."""
    host = ANY_ADDRESS.get(address.host, address.host)
    return msgspec.structs.replace(address, host=host)
