"""A site's own limit: from its first windows, kept over a restart, never without being asked."""

from pathlib import Path

import numpy as np
import pytest

from aimass_edge.predict.limits import FILE, Calibration, Calibrations
from aimass_shared.manifest import Contract, Manifest
from aimass_shared.monitoring import LONGEST, RootSums, limit

SCORES = np.random.default_rng(1).chisquare(40, 200) / 40


def _manifest(contract: Contract, release: str = "r1") -> Manifest:
    return Manifest(release, contract.model, contract, (), 0)


def _fed(calibration: Calibration, count: int = 200) -> list[float]:
    return [found for score in SCORES[:count] if (found := calibration.step(score)) is not None]


def test_the_limit_comes_with_the_last_window_and_is_that_of_their_scores(
    contract: Contract,
) -> None:
    calibration = Calibrations(100).of(_manifest(contract))
    assert _fed(calibration, 99) == []
    assert calibration.found is None
    (found,) = _fed(Calibrations(100).of(_manifest(contract)))
    assert found == pytest.approx(limit(RootSums.of(SCORES[:100], LONGEST)))
    assert found > np.quantile(SCORES, 0.99)


def test_it_is_kept_over_a_restart_and_not_for_another_release(
    contract: Contract, tmp_path: Path
) -> None:
    calibrations = Calibrations(100, tmp_path)
    (found,) = _fed(calibrations.of(_manifest(contract)))
    again = calibrations.of(_manifest(contract))
    assert again.found is not None
    assert (again.found.threshold, again.found.windows) == (found, 100)
    assert _fed(again) == []
    other = calibrations.of(_manifest(contract, "r2"))
    assert other.found is None
    assert len(_fed(other)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_nobody_calibrates_without_being_asked(contract: Contract, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"release": "r1", "threshold": 9.0, "windows": 100}')
    calibration = Calibrations(0, tmp_path).of(_manifest(contract))
    assert calibration.found is None
    assert _fed(calibration) == []


@pytest.mark.parametrize("kept", [b"", b"{", b'{"release": 3}'])
def test_a_damaged_file_is_no_limit(contract: Contract, tmp_path: Path, kept: bytes) -> None:
    (tmp_path / FILE).write_bytes(kept)
    calibration = Calibrations(100, tmp_path).of(_manifest(contract))
    assert calibration.found is None
    assert len(_fed(calibration)) == 1


def test_too_few_windows_leave_the_releases_limit(contract: Contract) -> None:
    calibration = Calibrations(2 * LONGEST - 1).of(_manifest(contract))
    assert _fed(calibration) == []
    assert calibration.found is None


def test_a_limit_that_cannot_be_kept_holds_until_the_restart(
    contract: Contract, tmp_path: Path
) -> None:
    calibrations = Calibrations(100, tmp_path / "gone")
    calibration = calibrations.of(_manifest(contract))
    assert len(_fed(calibration)) == 1
    assert calibration.found is not None
    assert calibrations.of(_manifest(contract)).found is None
