"""Pictures are turned only in ways that they show themselves, and changes leave the picture."""

import numpy as np
import pytest
from numpy.typing import NDArray

from aimass_cloud.datasets.augmentation import Augmentation
from aimass_cloud.datasets.symmetry import TURNS, found, told_apart

Pixels = NDArray[np.uint8]


def noise(count: int, side: int = 12) -> Pixels:
    random = np.random.default_rng(5)
    return random.integers(0, 256, (count, 1, side, side)).astype(np.uint8)


def one_class(pixels: Pixels) -> NDArray[np.int64]:
    return np.zeros(len(pixels), np.int64)


def test_textures_may_be_turned_in_every_way() -> None:
    assert found(noise(200), one_class(noise(200)), 0) == tuple(TURNS)


def test_light_from_above_forbids_turning_upside_down() -> None:
    lit = noise(200) // 2 + np.linspace(100, 0, 12).astype(np.uint8)[:, None]
    assert found(lit, one_class(lit), 0) == ("mirror",)


def test_lines_in_one_direction_forbid_rows_for_columns_alone() -> None:
    lines = np.repeat(noise(200)[..., :1, :], 12, axis=2)
    assert found(lines, one_class(lines), 0) == ("mirror", "flip")


def test_lines_that_mostly_run_one_way_are_lines_the_other_way_too() -> None:
    lines = np.repeat(noise(200)[..., :1, :], 12, axis=2)
    lines[:20] = lines[:20].swapaxes(-1, -2)
    assert 0.7 < told_apart("transpose", lines, one_class(lines), seed=0) < 0.95
    assert found(lines, one_class(lines), 0) == tuple(TURNS)


def test_a_class_counts_by_itself() -> None:
    """Two classes that are each other's mirror image look symmetric only when thrown together."""
    left = noise(100) // 2 + np.linspace(100, 0, 12).astype(np.uint8)
    both = np.concatenate([left, left[..., ::-1]])
    assert told_apart("mirror", both, one_class(both), seed=0) < 0.6
    assert "mirror" not in found(both, np.repeat([0, 1], 100), 0)


def test_too_few_pictures_or_flat_ones_say_nothing() -> None:
    flat = np.zeros((20, 1, 8, 6), np.uint8)
    assert found(noise(4), one_class(noise(4)), 0) == tuple(TURNS)
    assert found(flat, one_class(flat), 0) == ("mirror", "flip")


def augmentation(turns: tuple[str, ...] = (), shift: int = 0, light: float = 0.0) -> Augmentation:
    moments = np.full(1, 0.5, np.float32)
    return Augmentation(turns, shift=shift, light=light, mean=moments, spread=moments)


def test_no_change_is_none() -> None:
    random = np.random.default_rng(0)
    assert np.allclose(augmentation()(noise(3), random), noise(3) / 255, atol=1e-6)


@pytest.mark.parametrize("name", list(TURNS))
def test_half_of_the_pictures_are_turned(name: str) -> None:
    pixels = noise(200)
    changed = augmentation((name,))(pixels, np.random.default_rng(0))
    same, other = (
        np.isclose(changed, wanted / 255, atol=1e-6).all(axis=(1, 2, 3))
        for wanted in (pixels, TURNS[name](pixels))
    )
    assert (same | other).all()
    assert 60 < other.sum() < 140


def test_shifts_are_of_all_sizes_up_to_the_largest() -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 20, dtype=np.uint8), (300, 1, 12, 12))
    changed = augmentation(shift=2)(ramp, np.random.default_rng(0)) * 255
    moved = np.round(changed[:, 0, 6, 6] - 120) / 20
    assert set(moved.tolist()) == {-2, -1, 0, 1, 2}


def test_light_changes_brightness_and_contrast_within_limits() -> None:
    pixels = np.full((400, 1, 4, 4), 128, np.uint8)
    changed = augmentation(light=0.4)(pixels, np.random.default_rng(0))
    assert changed.dtype == np.float32
    assert 0.28 < changed.min() < 0.32
    assert 0.68 < changed.max() < 0.72


def test_the_same_generator_gives_the_same_changes() -> None:
    change = augmentation(tuple(TURNS), shift=2, light=0.3)
    first, second = (change(noise(8), np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, second)
