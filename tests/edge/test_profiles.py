"""The boards of firmware_configs: every file loads, says what is true, and the unit is in order."""

import configparser
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from aimass_edge import profiles
from aimass_edge.config import EdgeSettings
from aimass_edge.inventory import board_of
from aimass_edge.profiles import profile_names, profile_path
from aimass_shared.errors import UnknownSettingError
from aimass_shared.settings import load

ROOT = Path(__file__).parent.parent.parent / "firmware_configs"
FILES = sorted(ROOT.glob("*.toml"))
UNIT = ROOT / "aimass-edge.service"
MISSING = "/opt/aimass-edge/bin/aimass-edge is not executable: No such file or directory"
NEEDS_SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


class Facts(NamedTuple):
    """What a board is; memory is the most that its operating system can see."""

    modules: set[str]
    cores: int
    memory_mib: int
    capability: str
    tops: float
    dla: int
    pythons: set[str]
    modes: set[str]


# NVIDIA's and Raspberry Pi's data sheets; JetPack 6.2 and 7.2 as seen on boards.
BOARDS = {
    "jetson-orin-nano": Facts(
        modules={"p3767-0003", "p3767-0005"},
        cores=6,
        memory_mib=round(7.3 * 1024),
        capability="8.7",
        tops=67,
        dla=0,
        pythons={"3.10", "3.12"},
        modes={"7W", "15W", "25W", "MAXN_SUPER"},
    ),
    "raspberry-pi-5": Facts({"brcm,bcm2712"}, 4, 8192, "", 0, 0, {"3.11", "3.13"}, set()),
    "x86-gateway": Facts({"x86-64"}, 4, 16384, "", 0, 0, {"3.10", "3.11", "3.12"}, set()),
}


def read(path: Path) -> EdgeSettings:
    return load(EdgeSettings, prefix="AIMASS_EDGE_", files=[path], environ={})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_profile_loads_and_says_what_is_true(path: Path) -> None:
    settings, facts = read(path), BOARDS[path.stem]
    hardware = settings.hardware
    assert settings.board.name == path.stem
    assert set(hardware.modules) == facts.modules
    assert hardware.cores == facts.cores
    assert hardware.memory_mib == facts.memory_mib
    assert hardware.compute_capability == facts.capability
    assert (hardware.int8_tops, hardware.dla_cores) == (facts.tops, facts.dla)
    assert set(hardware.python) == facts.pythons
    assert set(hardware.power_modes) == facts.modes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_board_gives_to_models_fits_it(path: Path) -> None:
    settings = read(path)
    board = settings.board
    assert 0 < board.memory_mib <= settings.hardware.memory_mib / 2
    assert board.threads < settings.hardware.cores, "the agent is not alone on its board"
    assert not board.simulate, "only a demo pretends"
    # Here, without a GPU, each falls back to its processor, with the formats that suit that.
    assert {"int8", "fp32"} <= set(board_of(board).precisions)
    assert board.providers[-1] == "CPUExecutionProvider"
    assert ("tensorrt" in board.providers) == bool(settings.hardware.compute_capability)
    assert board_of(board).name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_profile_changes_the_board_and_nothing_else(path: Path) -> None:
    plain = msgspec.structs.replace(
        read(path), board=EdgeSettings().board, hardware=EdgeSettings().hardware
    )
    assert plain == EdgeSettings()


def test_all_boards_have_a_profile_and_are_found_by_name() -> None:
    assert {path.stem for path in FILES} == set(BOARDS) == set(profile_names())
    for name in BOARDS:
        assert profile_path(name).read_bytes() == (ROOT / f"{name}.toml").read_bytes()


def test_an_unknown_key_of_a_profile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[board]\nname = "mine"\nmemory = 5\n')
    with pytest.raises(UnknownSettingError, match="memory_mib"):
        read(profile_path(str(path)))


def test_the_integrator_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raspberry-pi-5.toml").write_text('[board]\nname = "our-pi"\n')
    (tmp_path / "kiosk.toml").write_text('[board]\nname = "kiosk"\n')
    monkeypatch.setattr(profiles, "PLACES", (tmp_path, *profiles.PLACES))
    assert read(profile_path("raspberry-pi-5")).board.name == "our-pi"
    assert "kiosk" in profile_names()


def test_an_unknown_profile_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownSettingError, match="jetson-orin-nano, raspberry-pi-5, x86-gateway"):
        profile_path("jetson")
    monkeypatch.setattr(profiles, "PLACES", ())
    with pytest.raises(UnknownSettingError, match="known are: none"):
        profile_path("jetson")


@NEEDS_SYSTEMD
def test_the_unit_is_in_order() -> None:
    """`verify` returns 0 for an unknown key and only says so: hence every line counts."""
    done = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False
    )
    told = [line for line in (done.stdout + done.stderr).splitlines() if MISSING not in line]
    assert told == []


@NEEDS_SYSTEMD
def test_the_unit_is_hardened() -> None:
    line = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(UNIT)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert "Overall exposure level" in done.stdout


def test_the_unit_and_the_agent_agree() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # keep the case, as documented
    unit.read(UNIT)
    service = unit["Service"]
    assert f"/var/lib/{service['StateDirectory']}" == EdgeSettings().data_dir
    command = "run --profile ${PROFILE} --config /etc/aimass-edge/config.toml"
    assert service["ExecStart"].endswith(command)
    assert service["Environment"] == "PROFILE=x86-gateway OMP_NUM_THREADS=1"
    assert service["Restart"] == "always"
    assert "@resources" not in service["SystemCallFilter"], "ONNX Runtime needs it"
