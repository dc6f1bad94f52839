"""A registry on a real disk and database, with a clock that can be moved."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aimass_cloud.config import TrustSettings
from aimass_cloud.registry import Registry, SigningKeys, TufRepository
from aimass_cloud.store import Blobs, Store
from aimass_shared.manifest import (
    AlarmRule,
    Contract,
    Sensor,
    SliceArtifact,
    TensorSpec,
)
from aimass_shared.slices import SliceCost, SliceSpec


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **amount: float) -> None:
        self.now += timedelta(**amount)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_tuf(tmp_path: Path, clock: Clock) -> Callable[[], TufRepository]:
    """Open the repository of this test, as a start of the coordinator does."""

    def start() -> TufRepository:
        keys = SigningKeys(tmp_path / "keys")
        tuf = TufRepository(tmp_path / "tuf", keys, TrustSettings(), clock=clock)
        tuf.open()
        return tuf

    return start


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def registry(store: Store, blobs: Blobs, open_tuf: Callable[[], TufRepository]) -> Registry:
    return Registry(store, blobs, open_tuf())


@pytest.fixture
def contract() -> Contract:
    return Contract(
        model="tep-monitor",
        sensors=(Sensor("A", "kPa", "continuous"),),
        step_ms=1000,
        window=4,
        horizon=1,
        inputs=(TensorSpec("values", "FP32", (-1, 4, 1)),),
        outputs=(TensorSpec("score", "FP32", (-1,)),),
        alarm=AlarmRule("score", 1.0, "contribution"),
    )


@pytest.fixture
def artifacts(tmp_path: Path) -> list[SliceArtifact]:
    """Two slices with files of their own."""
    made = []
    for width in (0.5, 1.0):
        folder = tmp_path / f"slice-{width}"
        folder.mkdir()
        for name in ("model.onnx", "train.onnx", "selftest.npz"):
            (folder / name).write_bytes(f"{name} of {width}".encode())
        made.append(
            SliceArtifact(
                spec=SliceSpec(width, "int8"),
                cost=SliceCost(100, 20, 1.0, 0.5),
                files=(
                    ("model", str(folder / "model.onnx")),
                    ("train", str(folder / "train.onnx")),
                    ("selftest", str(folder / "selftest.npz")),
                ),
                tolerance=0.01,
            )
        )
    return made
