"""What a coordinator opens: its directory, database and port, and the URL of a broker."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from aimass_cloud.app.opening import broker_address, claimed_folder, opened_store
from aimass_cloud.app.server import listen, uses_tls
from aimass_cloud.config import HttpSettings, MqttSettings
from aimass_shared.errors import (
    ConflictError,
    InvalidSettingError,
    MissingExtraError,
    PortInUseError,
    StorageError,
)
from aimass_shared.messages import BrokerAddress


def test_a_directory_belongs_to_one_coordinator(tmp_path: Path) -> None:
    with claimed_folder(tmp_path / "a" / "b") as data:
        assert data.stat().st_mode & 0o777 == 0o700
        with pytest.raises(ConflictError, match="another coordinator uses"), claimed_folder(data):
            pass
        with claimed_folder(tmp_path / "other"):
            pass
    with claimed_folder(data):
        pass


def test_a_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(InvalidSettingError, match="choose another --data-dir"),
            claimed_folder(path),
        ):
            pass


async def test_sqlite_lies_in_the_data_directory_by_default(tmp_path: Path) -> None:
    async with opened_store("", tmp_path):
        assert (tmp_path / "aimass.db").is_file()
    async with opened_store(f"sqlite+aiosqlite:///{tmp_path}/else/where.db", tmp_path):
        assert (tmp_path / "else" / "where.db").is_file()


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("secret", InvalidSettingError),
        ("mystery://secret@host/db", InvalidSettingError),
        ("postgresql+asyncpg://secret@127.0.0.1:1/db", MissingExtraError),
        ("sqlite+aiosqlite:////dev/null/secret.db", StorageError),
    ],
)
async def test_a_database_that_cannot_be_opened(
    tmp_path: Path, url: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught:
        async with opened_store(url, tmp_path):
            pass
    assert "secret@" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_damaged_database(tmp_path: Path) -> None:
    (tmp_path / "aimass.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="the database cannot be opened"):
        async with opened_store("", tmp_path):
            pass


async def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    async with opened_store("", tmp_path):
        pass
    with sqlite3.connect(tmp_path / "aimass.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    connection.close()
    with pytest.raises(StorageError, match="another version of aimass"):
        async with opened_store("", tmp_path):
            pass


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://broker", BrokerAddress("broker", 1883, tls=False)),
        ("mqtts://broker", BrokerAddress("broker", 8883, tls=True)),
        ("mqtts://[::1]:9", BrokerAddress("::1", 9, tls=True)),
        ("mqtt://10.0.0.1:2000", BrokerAddress("10.0.0.1", 2000, tls=False)),
    ],
)
def test_the_url_of_a_broker(url: str, address: BrokerAddress) -> None:
    assert broker_address(MqttSettings(url=url)) == address


@pytest.mark.parametrize(
    "url",
    ["x", "http://h", "mqtt://", "mqtt://:1883", "mqtt://h:x", "mqtt://h:99999", "mqtt://[x"],
)
def test_what_is_no_url_of_a_broker(url: str) -> None:
    with pytest.raises(InvalidSettingError, match="must be mqtt://HOST"):
        broker_address(MqttSettings(url=url))


def test_a_password_for_the_broker_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidSettingError, match="without a user") as caught:
        broker_address(MqttSettings(url="mqtts://me:geheim@h"))
    assert "geheim" not in str(caught.value)


def test_a_used_port_and_a_host_of_others(free_port: Callable[[], int]) -> None:
    port = free_port()
    with listen(HttpSettings(port=port)) as listener:
        assert listener.getsockname() == ("127.0.0.1", port)
        with (
            pytest.raises(PortInUseError, match=f"127.0.0.1:{port}"),
            listen(HttpSettings(port=port)),
        ):
            pass
    with listen(HttpSettings(port=port)):
        pass
    for host in ("192.0.2.1", "nowhere.invalid"):
        with pytest.raises(PortInUseError, match=host), listen(HttpSettings(host=host, port=0)):
            pass


@pytest.mark.parametrize(
    ("host", "tls", "used"),
    [
        ("127.0.0.1", "auto", False),
        ("::1", "auto", False),
        ("localhost", "auto", False),
        ("0.0.0.0", "auto", True),  # noqa: S104  that is what is asked
        ("10.1.2.3", "auto", True),
        ("plant.example", "auto", True),
        ("127.0.0.1", "on", True),
        ("10.1.2.3", "off", False),
    ],
)
def test_tls_is_on_off_loopback(host: str, tls: str, *, used: bool) -> None:
    settings = HttpSettings(host=host, tls=tls)  # type: ignore[arg-type]  # one of the three
    assert uses_tls(settings) is used
