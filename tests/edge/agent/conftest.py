"""A device without a coordinator: real slots, real self-tests, a real predictor, made-up releases.

Only the way over the network is cut out of the updater: a release is what `shelf.put` was given.
"""

import hashlib
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from tests.tiny_models import Tiny

from aimass_edge.agent.agent import Runner
from aimass_edge.agent.desired import DesiredState
from aimass_edge.config import BoardSettings, CapacitySettings, EdgeSettings, UpdateSettings
from aimass_edge.predict import Predictor
from aimass_edge.update import state as states
from aimass_edge.update.fetch import Link, Origin
from aimass_edge.update.slots import Bundle, Slots, bundle_of
from aimass_edge.update.updater import Updater
from aimass_shared.errors import AimassError, CloudUnavailableError
from aimass_shared.manifest import (
    AlarmRule,
    Contract,
    FileRef,
    Manifest,
    Role,
    Sensor,
    SliceEntry,
    TensorSpec,
    encode,
)
from aimass_shared.messages import Desired, ReleaseRef, Reported
from aimass_shared.slices import SliceCost, SliceSpec

DATA = Path(__file__).parent.parent / "data"
SENSORS = ("A", "B", "C")
CONTRACT = Contract(
    model="tiny",
    sensors=tuple(Sensor(name, "bar", "continuous") for name in SENSORS),
    step_ms=1000,
    window=4,
    horizon=2,
    inputs=(TensorSpec("values", "FP32", (-1, 4, 3)), TensorSpec("mask", "FP32", (-1, 4, 3))),
    outputs=(TensorSpec("score", "FP32", (-1,)),),
    alarm=AlarmRule("score", 10.0, "contribution", top=2),
)
TRIAL = 3


def ref_of(release: str) -> ReleaseRef:
    return ReleaseRef(release, f"stable/tiny/{release}.json", "w1.00-fp32")


def vectors(width: int) -> dict[str, Any]:
    """Inputs, and the forecast: the one output that every model of tests/edge/data gets right."""
    values = np.ones((1, 4, width), np.float32)
    forecast = np.ones((1, 2, width), np.float32)
    return {"in.values": values, "in.mask": values, "out.forecast": forecast}


class Shelf:
    """Releases by name, each a model file of tests/edge/data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.releases: dict[str, tuple[Bundle, SliceEntry]] = {}
        self.troubles: list[AimassError] = []
        self.asked: list[str] = []
        self.fetched: list[str] = []
        self.refuses = ""

    def put(
        self, release: str, model: str = "monitor.onnx", *, width: int = 3, narrower: str = ""
    ) -> None:
        """A release of a slice, and of a narrower one where a model is named for it."""
        entries = [self._entry(self.folder / release, model, width)]
        if narrower:
            folder = self.folder / f"{release}-narrower"
            entry = self._entry(folder, narrower, width)
            spec = SliceSpec(0.25, "fp32")
            entries.append(SliceEntry(spec, entry.cost, entry.files, entry.tolerance))
        manifest = Manifest(release, "tiny", CONTRACT, tuple(entries), created=1)
        self.releases[release] = bundle_of(ref_of(release), encode(manifest)), entries[0]

    def _entry(self, folder: Path, model: str, width: int) -> SliceEntry:
        folder.mkdir(parents=True)
        shutil.copy(DATA / model, folder / "model.onnx")
        np.savez(folder / "selftest.npz", **vectors(width))
        files = tuple(self._file(folder, role) for role in ("model", "selftest"))
        cost = SliceCost(model_bytes=500, memory_mib=1.0, reference_ms=0.1, val_error=0.5)
        return SliceEntry(SliceSpec(1.0, "fp32"), cost, files, 1e-4)

    def put_tiny(self, release: str, tiny: Tiny) -> None:
        """A release of a model that takes requests only."""
        tiny.write(self.folder / release)
        entry = tiny.entry()
        manifest = tiny.manifest(release, entry)
        self.releases[release] = bundle_of(ref_of(release), encode(manifest)), entry

    def _file(self, folder: Path, role: Role) -> FileRef:
        path = next(folder.glob(f"{role}.*"))
        body = path.read_bytes()
        return FileRef(role, path.name, hashlib.sha256(body).hexdigest(), len(body))


class ShelfUpdater(Updater):
    """The updater, with a shelf in the place of the network."""

    def __init__(self, settings: EdgeSettings, slots: Slots, shelf: Shelf) -> None:
        super().__init__(settings, slots, Origin("http://nowhere", b"", "stable", str))
        self._shelf = shelf

    async def _choose(self, link: Link, ref: ReleaseRef) -> tuple[Bundle, SliceEntry]:
        del link
        self._shelf.asked.append(ref.release)
        if self._shelf.troubles:
            raise self._shelf.troubles.pop(0)
        bundle, entry = self._shelf.releases[ref.release]
        states.check_not_bad(self._slots.load(), bundle.digest)
        return bundle, entry

    async def _download(self, link: Link, entry: SliceEntry) -> dict[Role, Path]:
        del link
        self._shelf.fetched.append(entry.spec.name)
        if self._shelf.refuses == entry.spec.name:
            raise CloudUnavailableError("the shelf is away")
        self._slots.prepare()
        parts: dict[Role, Path] = {}
        for file in entry.files:
            parts[file.role] = self._slots.incoming / f"{file.sha256}.part"
            source = next(p for p in self._shelf.folder.rglob(file.name) if self._is(p, file))
            shutil.copy(source, parts[file.role])
        return parts

    def _is(self, path: Path, file: FileRef) -> bool:
        return hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


class Device:
    """One life of the agent's desired-state loop; another one on the same folder is a restart."""

    def __init__(self, folder: Path, shelf: Shelf, trial_s: float) -> None:
        folder.mkdir(exist_ok=True)
        settings = EdgeSettings(update=UpdateSettings(trial_predictions=TRIAL, trial_s=trial_s))
        self.slots = Slots(folder / "models")
        self.predictor = Predictor(BoardSettings(), CapacitySettings())
        self.reports: list[Reported] = []
        self.wishes = DesiredState(
            ShelfUpdater(settings, self.slots, shelf),
            Runner(self.predictor),
            settings.update,
            kept=folder / "reported.json",
            report=self._report,
        )

    async def _report(self, reported: Reported) -> None:
        self.reports.append(reported)

    @property
    def told(self) -> list[tuple[int, str, str]]:
        """What was reported: (v, state, code)."""
        return [(one.v, one.state, one.code) for one in self.reports]

    @property
    def runs(self) -> str:
        """The release that answers now."""
        return self.predictor.status().release

    def want(self, v: int, release: str) -> None:
        self.wishes.want(Desired(v=v, ts=1, release=ref_of(release)))


@pytest.fixture
def contract() -> Contract:
    return CONTRACT


@pytest.fixture
def live(make_device: Callable[..., Device]) -> Callable[..., AbstractAsyncContextManager[Device]]:
    """One life of a device: its loops run until the block ends."""

    @asynccontextmanager
    async def alive(**settings: float) -> AsyncIterator[Device]:
        device = make_device(**settings)
        async with device.predictor:
            await device.wishes.start()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(device.wishes.run)
                tasks.start_soon(device.wishes.watch_trial)
                tasks.start_soon(device.wishes.accompany)
                yield device
                tasks.cancel_scope.cancel()

    return alive


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def make_device(tmp_path: Path, shelf: Shelf) -> Callable[..., Device]:
    return lambda trial_s=600.0: Device(tmp_path / "device", shelf, trial_s)
