"""What an update must look like before it may touch a model. Pure; nothing of Flower.

Stock strategies abort a run for one client with other keys, average NaN into everybody's model,
and let one client that claims 1e12 examples own it. Every refusal has a reason for the admin.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadUpdateError

MAX_EXAMPLES = 1_000_000

Shapes = Mapping[str, tuple[int, ...]]


def check_arrays(arrays: Mapping[str, NDArray[Any]], expected: Shapes, *, whole: bool) -> None:
    """Refuse arrays that cannot be averaged into those that were sent.

    Args:
        arrays: of one client.
        expected: shapes of the arrays that the client was sent.
        whole: whether all of them must be there, or only those that it trained.

    Raises:
        BadUpdateError: a name is unknown or missing, a shape differs, or a value is not finite.
    """
    if unknown := sorted(arrays.keys() - expected.keys()):
        raise BadUpdateError(f"the model has no parameter {unknown[0]!r}")
    if not arrays or (whole and len(arrays) != len(expected)):
        missing = sorted(expected.keys() - arrays.keys())
        raise BadUpdateError(f"the update lacks the parameters {missing[:3]}")
    for name, array in arrays.items():
        if array.shape != expected[name]:
            raise BadUpdateError(f"{name} has shape {array.shape}, {expected[name]} was sent")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise BadUpdateError(f"{name} has values that are not finite numbers")


def check_examples(examples: object, limit: int = MAX_EXAMPLES) -> int:
    """The weight of a client, if it is one.

    Raises:
        BadUpdateError: it is no whole number, less than 1, or over the limit.
    """
    if isinstance(examples, (int, float)) and 1 <= examples <= limit and examples == int(examples):
        return int(examples)
    raise BadUpdateError(f"num-examples is {examples!r}, it must be a whole number 1 to {limit}")
