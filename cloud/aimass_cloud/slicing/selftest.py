"""Windows with the outputs that a slice must give: how a device knows that a slice works there.

The vectors travel with the slice and its signature. Besides whole windows there are some with
values missing, since telemetry has gaps and the mask is easily left out by mistake.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimass_cloud.models.windows import cut
from aimass_cloud.recipes import PlantData
from aimass_shared.manifest import Contract

COUNT = 4
MISSING = 0.1
SEED = 20

Floats = NDArray[np.float32]


def windows(data: PlantData, contract: Contract) -> tuple[Floats, Floats]:
    """Values and mask `[4, W, S]`: normal, normal with gaps, faulty, faulty with gaps."""
    fault = next(iter(data.faults.values()))[data.fault_start :]
    chosen = [
        cut(rows[: 2 * contract.window], contract.window)[0] for rows in (data.calibration, fault)
    ]
    values = np.stack([chosen[0], chosen[0], chosen[1], chosen[1]])
    mask = np.ones_like(values)
    gaps = np.random.default_rng(SEED).random(mask[1::2].shape) < MISSING
    mask[1::2][gaps] = 0.0
    return np.where(mask > 0, values, 0.0).astype(np.float32), mask


def packed(values: Floats, mask: Floats, outputs: dict[str, Floats]) -> bytes:
    """The vectors as an `.npz` file: `in.values`, `in.mask`, and `out.` with each output's name."""
    arrays: dict[str, Any] = {"in.values": values, "in.mask": mask}
    arrays |= {f"out.{name}": array for name, array in outputs.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def relative_error(outputs: dict[str, Floats], expected: dict[str, Floats]) -> float:
    """The largest difference of any output, as a share of that output's largest value."""
    return max(
        float(np.abs(outputs[name] - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))
        for name, wanted in expected.items()
    )
