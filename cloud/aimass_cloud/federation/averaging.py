"""Average of updates of different widths, weighted by examples and by who covers what. Pure.

Entry by entry: sum(n * value) / sum(n) over the clients that hold it; what nobody holds keeps its
value. With all clients at full width this is FedAvg. Diao et al., HeteroFL (ICLR 2021), with
examples in place of client counts.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.federation.plans import Arrays, Nesting


class Contribution(NamedTuple):
    """A client's arrays, its width, and the examples that they stand for."""

    arrays: Mapping[str, NDArray[Any]]
    width: float
    examples: int


def cut(full: Mapping[str, NDArray[Any]], nesting: Nesting, width: float) -> Arrays:
    """The parts of full parameters that a client of a width trains."""
    return {
        name: np.ascontiguousarray(array[nesting(name, array.shape, width)])
        for name, array in full.items()
    }


def average(
    full: Mapping[str, NDArray[Any]], nesting: Nesting, contributions: Iterable[Contribution]
) -> Arrays:
    """New full parameters, with the types of the old ones; sums run in float64."""
    total = {name: np.zeros(array.shape) for name, array in full.items()}
    weight = {name: np.zeros(array.shape) for name, array in full.items()}
    for part in contributions:
        for name, array in part.arrays.items():
            index = nesting(name, full[name].shape, part.width)
            total[name][index] += part.examples * array.astype(np.float64)
            weight[name][index] += part.examples
    return {
        name: np.divide(
            total[name], weight[name], out=array.astype(np.float64), where=weight[name] > 0
        ).astype(array.dtype)
        for name, array in full.items()
    }
