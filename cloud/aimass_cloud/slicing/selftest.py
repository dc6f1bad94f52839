"""Inputs with the outputs that a slice must give: how a device knows that a slice works there.

The vectors travel with the slice and its signature.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def packed(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> bytes:
    """The vectors as an `.npz` file: `in.` with each input's name, `out.` with each output's."""
    arrays: dict[str, Any] = {f"in.{name}": array for name, array in inputs.items()}
    arrays |= {f"out.{name}": array for name, array in outputs.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def relative_error(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """The largest difference of any output, as a share of that output's largest value.

    Whole numbers (labels, ids) are no quantities: they are left to the recipe's own measure.
    """
    return max(
        float(np.abs(outputs[name] - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))
        for name, wanted in expected.items()
        if np.issubdtype(wanted.dtype, np.floating)
    )
