"""Inputs with the outputs that a slice must give: how a device knows that a slice works there.

The vectors travel with the slice and its signature.
"""

import io
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aimass_shared.slices import Precision

Array = NDArray[Any]

SAFETY: Final = 4.0
"""Times the difference that was seen here which another processor may show."""
MARGINS: Final[Mapping[Precision, float]] = {"fp32": 1e-4, "fp16": 1e-3}
INT8_MARGIN: Final = 5e-4
"""What may always differ on a processor, of the largest value of an output (which for a forecast in
units is thousands: hence so little)."""
TENSORRT_MARGIN: Final = 2e-3
"""The same on TensorRT, which may take factors of float products with 10 bits (TF32), and sum those
of half precision in half precision."""
SLOWER: Final = 3.0
OVERHEAD_MS: Final = 0.5


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


def tolerances(
    precision: Precision, own: float, rounding: float, *, classes: Collection[str]
) -> dict[str, float]:
    """Largest relative error on a device, by what runs the slice there.

    Args:
        precision: of the slice.
        own: difference of the slice from the model in float, here.
        rounding: of a float slice, what it would be with factors of products in half precision.
        classes: of devices, whose tolerances are wanted; "cpu" is always among them.
    """
    found = {"cpu": max(MARGINS.get(precision, INT8_MARGIN), SAFETY * own)}
    if "tensorrt" in classes and precision in ("fp32", "fp16", "int8-trt"):
        found["tensorrt"] = max(TENSORRT_MARGIN, found["cpu"], SAFETY * rounding)
    return found


def latency_ms(reference_ms: float) -> float:
    """What one sample may take on the reference processor, nothing else running: its bound."""
    return round(SLOWER * reference_ms + OVERHEAD_MS, 3)
