"""Which way round pictures may be turned: augmentation by what the data show, not by a guess.

A picture of a surface may be mirrored, a digit may not. Whether it may is asked of the pictures: a
linear classifier is fitted on half of a class to tell pictures from mirrored ones and is judged on
the other half. Where it does little better than a coin, mirrored pictures are like pictures.
(The idea is the classifier two-sample test: Lopez-Paz and Oquab, ICLR 2017.)
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

TURNS: Final[Mapping[str, Callable[[Pixels], Pixels]]] = MappingProxyType(
    {
        "mirror": lambda pixels: pixels[..., ::-1],
        "flip": lambda pixels: pixels[..., ::-1, :],
        "transpose": lambda pixels: pixels.swapaxes(-1, -2),
    }
)
"""Left to right, top to bottom, rows to columns: together all turns by 90 degrees."""
TOLD_APART: Final = MappingProxyType({"mirror": 0.7, "flip": 0.7, "transpose": 0.95})
"""Share of pairs told apart from which on a turn is refused."""
MOST_PER_CLASS, LEAST_PER_CLASS = 400, 8
BRIGHTNESS_CELLS, EDGE_CELLS = 8, 4
RIDGE: Final = 0.3


def found(pixels: Pixels, labels: NDArray[np.int64], seed: int) -> tuple[str, ...]:
    """Names of the turns that keep pictures `[n, C, H, W]` of a class like those of the class.

    Rows become columns only where neither left nor up is known, as on a surface seen from above.
    There the limit is wider: scratches that mostly run one way are scratches the other way too.
    """
    kept = [name for name in ("mirror", "flip") if _allowed(name, pixels, labels, seed=seed)]
    square = pixels.shape[-1] == pixels.shape[-2]
    if square and len(kept) > 1 and _allowed("transpose", pixels, labels, seed=seed):
        kept.append("transpose")
    return tuple(kept)


def _allowed(name: str, pixels: Pixels, labels: NDArray[np.int64], *, seed: int) -> bool:
    return told_apart(name, pixels, labels, seed=seed) < TOLD_APART[name]


def told_apart(name: str, pixels: Pixels, labels: NDArray[np.int64], *, seed: int) -> float:
    """Share of pairs (a picture and the same one turned) that are told apart: .5 is by chance.

    The mean over classes; those with too few pictures are left out.
    """
    random = np.random.default_rng(seed)
    shares = [0.5]
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))[:MOST_PER_CLASS]
        if len(rows) >= LEAST_PER_CLASS:
            chosen = pixels[rows]
            shares.append(_share(_features(chosen) - _features(TURNS[name](chosen))))
    return float(np.mean(shares[1:] or shares))


def _share(differences: Floats) -> float:
    """How often a direction found on one half of the differences is right on the other half."""
    middle = len(differences) // 2
    halves = (differences[:middle], differences[middle:])
    right = [(judged @ _direction(fitted) > 0).mean() for fitted, judged in (halves, halves[::-1])]
    return float(np.mean(right))


def _direction(differences: Floats) -> Floats:
    moments = differences.T @ differences / len(differences)
    ridge = RIDGE * max(float(np.trace(moments)) / len(moments), 1e-9)
    solved: Floats = np.linalg.solve(
        moments + ridge * np.eye(len(moments), dtype=np.float32), differences.mean(axis=0)
    )
    return solved


def _features(pixels: Pixels) -> Floats:
    """Brightness and strength of edges in both directions, in the cells of coarse grids."""
    gray = pixels.mean(axis=1, dtype=np.float32)
    gray -= gray.mean(axis=(1, 2), keepdims=True)
    gray /= gray.std(axis=(1, 2), keepdims=True) + 1
    edges = [np.abs(np.diff(gray, axis=axis)) for axis in (1, 2)]
    parts = [_cells(gray, BRIGHTNESS_CELLS), *(_cells(edge, EDGE_CELLS) for edge in edges)]
    return np.concatenate(parts, axis=1)


def _cells(maps: Floats, count: int) -> Floats:
    """Means over the cells of a grid with `count` rows and columns, `[n, cells]`."""
    for axis in (1, 2):
        starts = np.unique(np.linspace(0, maps.shape[axis], count, endpoint=False).astype(int))
        sizes = np.diff([*starts, maps.shape[axis]])
        shape = [-1 if index == axis else 1 for index in range(3)]
        sums = np.add.reduceat(maps, starts, axis=axis)
        maps = (sums / sizes.reshape(shape)).astype(np.float32)
    return maps.reshape(len(maps), -1)
