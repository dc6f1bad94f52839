"""The inventory, against this machine and a device tree as boards have it."""

import platform
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

from aimass_edge.config import BoardSettings
from aimass_edge.inventory import board_of, rss_mib, take_inventory
from aimass_shared.messages import Inventory

BOARD = BoardSettings(name="raspberry-pi-5", memory_mib=512, cpu_time_factor=4.0)


def test_it_describes_this_machine(tmp_path: Path) -> None:
    inventory = take_inventory(BOARD, model_file=tmp_path / "none")
    assert inventory.machine == platform.machine()
    assert inventory.python == platform.python_version()
    assert inventory.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert "CPUExecutionProvider" in inventory.providers
    assert inventory.agent[0].isdigit()
    assert inventory.board == board_of(BOARD)


def test_it_crosses_the_wire_unchanged() -> None:
    inventory = take_inventory(BOARD)
    assert msgspec.json.decode(msgspec.json.encode(inventory), type=Inventory) == inventory


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"Raspberry Pi 5 Model B Rev 1.0\0", "Raspberry Pi 5 Model B Rev 1.0"),
        (b"NVIDIA Jetson Orin Nano\0garbage", "NVIDIA Jetson Orin Nano"),
        (b"line\nbreak\x1b[31m\xff\0", "linebreak[31m\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_the_device_tree_names_the_board(tmp_path: Path, raw: bytes, told: str) -> None:
    (tmp_path / "model").write_bytes(raw)
    inventory = take_inventory(BOARD, model_file=tmp_path / "model")
    assert inventory.machine == f"{platform.machine()}, {told}"


def test_an_endless_device_tree_is_cut(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x" * 100_000)
    assert len(take_inventory(BOARD, model_file=tmp_path / "model").machine) < 300


def test_rss_sees_memory_that_is_touched() -> None:
    before = rss_mib()
    block = np.ones(64 << 20, np.uint8)
    assert rss_mib() - before > 50
    assert block.sum() == 64 << 20
