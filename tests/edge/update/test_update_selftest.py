"""The self-test: real models in real child processes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_edge.config import BoardSettings
from aimass_edge.update.prove import prove
from aimass_edge.update.selftest import compare, read_vectors, relative_error
from aimass_edge.update.slots import Bundle, Installed, Slots
from aimass_shared.errors import (
    DeadlineExceededError,
    ModelLoadFailedError,
    SelfTestFailedError,
)
from aimass_shared.manifest import Role

Contents = dict[Role, bytes]
InstallReal = Callable[..., Installed]
BOARD = BoardSettings()
NOTHING: Mapping[str, object] = {}


@pytest.fixture
def install_real(
    tmp_path: Path,
    real_contents: Contents,
    make_bundle: Callable[..., tuple[Bundle, Contents]],
    put_parts: Callable[[Slots, Contents], dict[Role, Path]],
) -> InstallReal:
    """Install a real model, with some of its files replaced."""

    def step(entry: Mapping[str, object] = NOTHING, **changed: bytes) -> Installed:
        contents: Contents = {**real_contents}
        for role in ("model", "selftest"):
            contents[role] = changed.get(role, contents[role])
        bundle, _ = make_bundle(1, contents, **entry)
        slots = Slots(tmp_path / "models")
        return slots.install(bundle, put_parts(slots, contents))

    return step


def changed_vectors(path: Path, raw: bytes, **arrays: object) -> bytes:
    path.write_bytes(raw)
    with np.load(path) as archive:
        vectors = dict(archive)
    kept = {n: a for n, a in (vectors | arrays).items() if a is not None}
    np.savez(path, **kept)
    return path.read_bytes()


async def test_right_model_passes(install_real: InstallReal) -> None:
    outcome = await prove(install_real().directory, BOARD, 30)
    assert outcome.ok
    assert 0 <= outcome.error <= outcome.tolerance == 1e-3
    assert outcome.seconds > 0
    assert outcome.peak_mib > 10
    assert 0 < outcome.latency_ms <= outcome.p50_ms


async def test_a_sample_that_takes_longer_than_its_bound_is_told(
    install_real: InstallReal, caplog: pytest.LogCaptureFixture
) -> None:
    quick = await prove(install_real({"latency_ms": 500.0}).directory, BOARD, 30)
    assert 0 < quick.latency_ms < quick.bound_ms == 500
    assert "were expected" not in caplog.text
    near = msgspec.structs.replace(BOARD, cpu_time_factor=quick.latency_ms / 4 / 500)
    slow = await prove(install_real({"latency_ms": 500.0}).directory, near, 30)
    assert slow.ok
    assert slow.latency_ms > slow.bound_ms
    assert "were expected" in caplog.text


async def test_a_sample_that_takes_absurdly_long_fails(install_real: InstallReal) -> None:
    with pytest.raises(SelfTestFailedError, match=r"a sample takes .* are expected"):
        await prove(install_real({"latency_ms": 1e-6}).directory, BOARD, 30)


async def test_a_tolerance_may_be_for_what_runs_the_slice(install_real: InstallReal) -> None:
    entry = {"tolerance": 0.5, "tolerances": {"cpu": 0.25, "tensorrt": 1.0}}
    assert (await prove(install_real(entry).directory, BOARD, 30)).tolerance == 0.25


async def test_model_that_computes_something_else_fails(
    tmp_path: Path, install_real: InstallReal, real_contents: Contents
) -> None:
    expected = np.full(3, 7.0, np.float32)
    raw = changed_vectors(tmp_path / "v.npz", real_contents["selftest"], **{"out.score": expected})
    with pytest.raises(SelfTestFailedError, match="score is off by"):
        await prove(install_real(selftest=raw).directory, BOARD, 30)


async def test_vectors_that_expect_nothing_prove_nothing(
    tmp_path: Path, install_real: InstallReal, real_contents: Contents
) -> None:
    raw = changed_vectors(tmp_path / "v.npz", real_contents["selftest"], **{"out.score": None})
    with pytest.raises(SelfTestFailedError, match="would prove nothing"):
        await prove(install_real(selftest=raw).directory, BOARD, 30)


async def test_vectors_that_do_not_fit_the_model(
    tmp_path: Path, install_real: InstallReal, real_contents: Contents
) -> None:
    raw = changed_vectors(tmp_path / "v.npz", real_contents["selftest"], **{"in.mask": None})
    with pytest.raises(SelfTestFailedError, match="mask"):
        await prove(install_real(selftest=raw).directory, BOARD, 30)


async def test_file_that_is_no_model(install_real: InstallReal) -> None:
    with pytest.raises(ModelLoadFailedError):
        await prove(install_real(model=b"not a model").directory, BOARD, 30)


@pytest.mark.parametrize("raw", [b"not an archive", b"PK\x03\x04", b""])
async def test_file_that_is_no_archive(install_real: InstallReal, raw: bytes) -> None:
    with pytest.raises(SelfTestFailedError, match=r"selftest\.npz cannot be read"):
        await prove(install_real(selftest=raw).directory, BOARD, 30)


async def test_child_that_does_not_end_is_ended(install_real: InstallReal) -> None:
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        await prove(install_real().directory, BOARD, 0.05)
    assert time.monotonic() - start < 5


async def test_child_that_dies_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(SelfTestFailedError, match=r"status 1 .*FileNotFoundError.*manifest\.json"):
        await prove(tmp_path / "nothing", BOARD, 30)


def test_command_reports_in_json_and_by_status(install_real: InstallReal) -> None:
    command = [sys.executable, "-m", "aimass_edge.update.selftest", str(install_real().directory)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stderr == b""
    assert json.loads(done.stdout)["ok"] is True


def test_orphaned_child_ends_itself(install_real: InstallReal) -> None:
    command = [sys.executable, "-m", "aimass_edge.update.selftest", str(install_real().directory)]
    done = subprocess.run([*command, "--deadline", "0.001"], check=False, timeout=60)
    assert done.returncode < 0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(0, 0.5))
def test_error_is_relative_to_the_largest_value(values: list[float], share: float) -> None:
    expected = np.array(values)
    largest = np.abs(expected).max()
    found = expected.copy()
    found[0] += share * largest
    assert relative_error(found, expected) == pytest.approx(
        share * largest / (largest + 1e-6), rel=1e-6, abs=1e-9
    )


def test_what_cannot_be_compared_never_passes() -> None:
    good = np.ones(3)
    for bad in (np.ones(2), np.ones((3, 1)), np.array([1, 1, np.nan]), np.array([1, 1, np.inf])):
        with pytest.raises(SelfTestFailedError):
            compare({"y": bad}, {"y": good}, 1e9)
    with pytest.raises(SelfTestFailedError, match="no output y"):
        compare({}, {"y": good}, 1e9)
    assert compare({"y": good, "other": good}, {"y": good}, 0.0) == 0.0


def test_archive_with_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(SelfTestFailedError, match="cannot be read"):
        read_vectors(path)
