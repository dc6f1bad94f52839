"""Proof that head and tail together are the whole: all three are run on the same inputs."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from aimass_cloud.slicing.cuts.parts import Part
from aimass_cloud.slicing.cuts.reading import Whole, tensors
from aimass_cloud.slicing.cuts.running import Runner, Values, generated
from aimass_shared.errors import SelfTestFailedError

TOLERANCE: Final = 1e-5
"""Of a float: absolute up to one, and relative to the output's largest value above."""
HALF_TOLERANCE: Final = 4e-3
"""The same of a model that reckons in half precision: some of its steps."""
HALVES: Final = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


class Agreement(msgspec.Struct, frozen=True):
    """How far head and tail together are from the whole.

    Attributes:
        max_abs_error: largest difference of any number of any output; infinite where shapes, types
            or anything but floats differ.
        max_rel_error: the same as a share of the largest value of that output, if it is over one.
        identical: whether every bit is the same.
        outputs: the largest difference of each output.
    """

    max_abs_error: float
    max_rel_error: float
    identical: bool
    outputs: dict[str, float]


class Reference:
    """What a whole gives for some inputs, to hold parts of it against."""

    def __init__(
        self,
        whole: Whole,
        inputs: Values | None = None,
        *,
        seed: int = 0,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        """Run the whole.

        Args:
            whole: the model.
            inputs: arrays by name; normal numbers if there are none.
            seed: of those numbers.
            sizes: of their symbolic axes; 2 where nobody tells.

        Raises:
            ModelLoadFailedError: ONNX Runtime cannot run the model.
            UncuttableModelError: inputs of that kind are not made here.
        """
        self.inputs = inputs or generated(whole.model, seed=seed, sizes=sizes)
        self.outputs = Runner(whole.model, whole.folder).run(self.inputs)

    def agreement(self, head: Part, tail: Part) -> Agreement:
        """Run both parts, the tail on what the head gives.

        Raises:
            ModelLoadFailedError: ONNX Runtime cannot run a part.
        """
        between = Runner(head.model, head.folder).run(self.inputs)
        given = {**self.inputs, **between}
        ends = Runner(tail.model, tail.folder).run({name: given[name] for name in tail.inputs})
        together = {**given, **ends}
        pairs = {name: (together[name], value) for name, value in self.outputs.items()}
        errors = {name: _difference(*pair) for name, pair in pairs.items()}
        return Agreement(
            max(absolute for absolute, _ in errors.values()),
            max(relative for _, relative in errors.values()),
            all(_identical(*pair) for pair in pairs.values()),
            {name: absolute for name, (absolute, _) in errors.items()},
        )


def tolerance_of(whole: Whole) -> float:
    """What head and tail of a model may differ from it: more where it reckons in half precision."""
    graph = whole.model.graph
    kinds = {tensor.data_type for tensor in tensors(whole.model)}
    kinds |= {one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)}
    return HALF_TOLERANCE if kinds & HALVES else TOLERANCE


def demand(agreement: Agreement, cut: str, tolerance: float = TOLERANCE) -> None:
    """Refuse parts that are not the whole.

    Raises:
        SelfTestFailedError: an output differs by more than the tolerance.
    """
    if not agreement.max_rel_error <= tolerance:
        worst = max(agreement.outputs, key=lambda name: agreement.outputs[name])
        raise SelfTestFailedError(
            f"{cut}: head and tail differ from the whole by {agreement.max_abs_error:.1e} in"
            f" {worst!r}, {agreement.max_rel_error:.1e} of its largest value; the limit is"
            f" {tolerance:g}"
        )


def _difference(found: Any, expected: Any) -> tuple[float, float]:  # noqa: ANN401  array, list or dict
    """Largest difference, absolute and relative."""
    if isinstance(expected, list):
        if len(found) != len(expected):
            return np.inf, np.inf
        pairs = [_difference(*pair) for pair in zip(found, expected, strict=True)]
        return max((a for a, _ in pairs), default=0.0), max((r for _, r in pairs), default=0.0)
    if not isinstance(expected, np.ndarray):
        return (0.0, 0.0) if found == expected else (np.inf, np.inf)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return np.inf, np.inf
    if expected.dtype.kind != "f":
        return (0.0, 0.0) if np.array_equal(found, expected) else (np.inf, np.inf)
    return _float_difference(found, expected)


def _float_difference(found: NDArray[Any], expected: NDArray[Any]) -> tuple[float, float]:
    """NaN and infinity must be in the same places."""
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return np.inf, np.inf
    wide = np.float64
    missed = np.abs(found[finite].astype(wide) - expected[finite].astype(wide))
    absolute = float(missed.max(initial=0.0))
    absolute = np.inf if np.isnan(absolute) else absolute
    largest = float(np.abs(expected[finite].astype(wide)).max(initial=1.0))
    return absolute, absolute / largest


def _identical(found: Any, expected: Any) -> bool:  # noqa: ANN401  array, list or dict
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_identical, found, expected))
    if isinstance(expected, np.ndarray) and expected.dtype.kind != "O":
        return bool(found.tobytes() == expected.tobytes())
    return bool(np.array_equal(found, expected))
