"""A device with an install, and files of the kernel that tell of power."""

import functools
import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.tiny_models import CLASSIFIER, Tiny

from aimass_edge.cli import main
from aimass_edge.update import state as states
from aimass_edge.update.slots import Installed, Slots, bundle_of
from aimass_shared.manifest import FileRef, Manifest, encode
from aimass_shared.messages import ReleaseRef
from aimass_shared.slices import SliceSpec

WHOLE = SliceSpec(1.0, "fp32")
Offer = Callable[..., Installed]
Bench = Callable[..., "Done"]


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def install(tmp_path: Path) -> Offer:
    """Install a slice in the data directory of the tests."""
    return functools.partial(installed, tmp_path / "edge")


def installed(
    data: Path, *specs: SliceSpec, tiny: Tiny = CLASSIFIER, memory_mib: float = 1.0
) -> Installed:
    """Install the first slice of a release that offers some: one tiny model by several names.

    The others need `memory_mib`.
    """
    whole = tiny.entry()
    cost = msgspec.structs.replace(whole.cost, memory_mib=memory_mib)
    entries = [msgspec.structs.replace(whole, spec=spec) for spec in specs or (WHOLE,)]
    entries[1:] = [msgspec.structs.replace(entry, cost=cost) for entry in entries[1:]]
    manifest = Manifest("r1", tiny.contract.model, tiny.contract, tuple(entries), 0)
    ref = ReleaseRef("r1", f"stable/{manifest.model}/r1.json", entries[0].spec.name)
    slots = Slots(data / "models")
    slots.prepare()
    parts = {file.role: _part(slots, file, tiny) for file in entries[0].files}
    found = slots.install(bundle_of(ref, encode(manifest)), parts)
    slots.change(lambda state: states.begin_trial(state, found.digest, 3))
    slots.change(states.commit)
    return found


def _part(slots: Slots, file: FileRef, tiny: Tiny) -> Path:
    part = slots.incoming / f"{hashlib.sha256(tiny.contents[file.role]).hexdigest()}.part"
    part.write_bytes(tiny.contents[file.role])
    return part


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], no_site: None) -> Bench:
    """Run `aimass-edge bench` briefly; what it measures in are processes of their own."""
    assert no_site is None

    def run(*words: str) -> Done:
        code = main(["bench", *brief(tmp_path), *words])
        return Done(code, *capsys.readouterr())

    return run


def brief(folder: Path) -> list[str]:
    """Options of a bench that is soon over."""
    places = ["--data-dir", str(folder / "edge"), "--sysfs", str(folder / "sys")]
    return [*places, "--seconds", "0.05", "--turns", "1"]


@pytest.fixture
def no_site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is installed on this machine must not show in the tests."""
    module = importlib.import_module("aimass_edge.cli.main")  # its name is that of a function too
    monkeypatch.setattr(module, "DEFAULT_CONFIG", tmp_path / "no.toml")


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    """Files of a Jetson Orin Nano: 5 V and 2 A on the rail that carries all, and 48 degrees."""
    sysfs = tmp_path / "sys"
    chip, zone = sysfs / "class/hwmon/hwmon1", sysfs / "class/thermal/thermal_zone0"
    chip.mkdir(parents=True)
    zone.mkdir(parents=True)
    (chip / "name").write_text("ina3221\n")
    rails = [("VDD_IN", 5000, 2000), ("VDD_CPU_GPU_CV", 5000, 800), ("VDD_SOC", 5000, 400)]
    for channel, (label, millivolts, milliamperes) in enumerate(rails, 1):
        (chip / f"in{channel}_label").write_text(f"{label}\n")
        (chip / f"in{channel}_input").write_text(f"{millivolts}\n")
        (chip / f"curr{channel}_input").write_text(f"{milliamperes}\n")
    (zone / "temp").write_text("48000\n")
    return sysfs
