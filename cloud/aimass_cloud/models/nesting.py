"""Nested widths: which axes of which parameter shrink with the width, and what a width keeps.

A slice of width w keeps the leading share of every elastic axis, so that one set of arrays serves
all widths. Slicing cuts with it; federated averaging puts the updates of narrow devices back with
it. Ordered dropout and prefix slices: Horvath et al., FjORD (NeurIPS 2021); Diao et al., HeteroFL
(ICLR 2021). No torch in here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import NotFoundError

WIDTHS = (1.0, 0.5, 0.25)

Scalar = TypeVar("Scalar", bound=np.generic)


def leading_count(size: int, width: float) -> int:
    """How many channels of an elastic axis of `size` a width keeps, at least one."""
    return max(1, round(size * width))


@dataclass(frozen=True)
class Nesting:
    """The elastic axes of each parameter; a parameter that is not named here is unknown."""

    axes: Mapping[str, tuple[int, ...]]

    def leading(self, name: str, full_shape: tuple[int, ...], width: float) -> tuple[slice, ...]:
        """The part of a full parameter that a slice of `width` holds.

        Raises:
            NotFoundError: the model has no parameter of that name.
        """
        if name not in self.axes:
            raise NotFoundError(f"no parameter {name!r}; there are: {', '.join(self.axes)}")
        elastic = self.axes[name]
        return tuple(
            slice(0, leading_count(size, width) if axis in elastic else size)
            for axis, size in enumerate(full_shape)
        )

    def sliced(
        self, arrays: Mapping[str, NDArray[Scalar]], width: float
    ) -> dict[str, NDArray[Scalar]]:
        """Copies of the leading parts of full parameters, as a device of `width` gets them."""
        return {
            name: array[self.leading(name, array.shape, width)].copy()
            for name, array in arrays.items()
        }
