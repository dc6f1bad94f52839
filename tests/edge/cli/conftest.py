"""A device that is enrolled, without a coordinator: its identity is written down by hand."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from aimass_edge.enroll import IdentityRecord
from aimass_shared import identity
from aimass_shared.messages import BrokerAddress, encode

NOBODY = 9
"""The discard port: nothing listens there."""


class Address(NamedTuple):
    host: str
    port: int


Enrol = Callable[..., Path]


@pytest.fixture
def enrol(tmp_path: Path) -> Enrol:
    """Give a data directory an identity; nobody answers where it says, unless it is told."""

    def write(name: str = "edge", *, broker_port: int = NOBODY, cloud_port: int = NOBODY) -> Path:
        folder = tmp_path / name / "identity"
        folder.mkdir(parents=True)
        record = IdentityRecord(
            device="press-1",
            site="press",
            channel="stable",
            cloud_url=f"http://127.0.0.1:{cloud_port}",
            broker=BrokerAddress("127.0.0.1", broker_port, tls=False),
        )
        (folder / "identity.json").write_bytes(encode(record))
        (folder / "device.key").write_bytes(identity.key_pem(identity.new_key()))
        (folder / "root.json").write_bytes(b"{}")
        return folder.parent

    return write


@pytest.fixture(autouse=True)
def no_site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is installed on this machine must not show in the tests."""
    module = importlib.import_module("aimass_edge.cli.main")  # its name is that of a function too
    monkeypatch.setattr(module, "DEFAULT_CONFIG", tmp_path / "no.toml")
