"""The contract of any ONNX model: what it takes and gives as tensors, or why it cannot be served.

The first axis is the batch where it is open in every input and output, and where an answer does not
depend on the other samples of its batch: only then may requests of several callers share a run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from aimass_cloud.slicing.cuts import Whole
from aimass_cloud.slicing.cuts.dag import real_inputs, used
from aimass_shared.errors import ModelLoadFailedError
from aimass_shared.inference.tensors import MAX_RANK, MAX_TENSORS
from aimass_shared.manifest import Contract, TensorSpec

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]

ANY: Final = -1
BATCHES: Final = (1, 2, 3)
SHAPES: Final = frozenset({"Shape", "Size"})
CLOSE: Final = 1e-4
"""Of an output alone and in a batch, as a share of its largest value: order of sums differs."""
_KINDS: Final[dict[int, str]] = {
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.UINT32: "UINT32",
    onnx.TensorProto.UINT64: "UINT64",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
}


def declared(whole: Whole, name: str, labels: Sequence[str] = ()) -> Contract:
    """What a model says that it takes and gives.

    Raises:
        ModelLoadFailedError: an input or output is no tensor that can be served; it is named.
    """
    inputs = [_spec("input", value) for value in real_inputs(whole.model.graph)]
    outputs = [_spec("output", value) for value in whole.model.graph.output]
    for kind, specs in (("inputs", inputs), ("outputs", outputs)):
        if not 0 < len(specs) <= MAX_TENSORS:
            raise ModelLoadFailedError(
                f"the model has {len(specs)} {kind}: 1 to {MAX_TENSORS} can be served"
            )
    return Contract(
        model=name,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        task="classify" if labels else "other",
        labels=tuple(labels),
    )


def observed(
    contract: Contract, run: Run, batches: Sequence[Mapping[int, Arrays]], *, branches: bool
) -> Contract:
    """The contract as runs show it: shapes of outputs, and whether samples can share a run.

    Args:
        contract: as it was declared.
        run: the model.
        batches: each has inputs of one sample, of two others, and of all three together; only that
            of one where the batch is fixed.
        branches: whether values decide which way the graph takes: for all samples of a run.

    Raises:
        ModelLoadFailedError: an output is not of the type that is declared, or is no array.
    """
    alone = _arrays(contract, run(batches[0][1]))
    outputs = tuple(
        _seen(spec, alone[spec.name], inputs=contract.inputs) for spec in contract.outputs
    )
    contract = _with(contract, contract.inputs, outputs)
    if not is_open(contract):
        return contract
    if not branches and all(
        apart(lambda size, batch=batch: _arrays(contract, run(batch[size])))  # type: ignore[misc]
        for batch in batches
    ):
        return contract
    return _with(contract, *(_of_one(specs) for specs in (contract.inputs, contract.outputs)))


def apart(given: Callable[[int], Mapping[str, NDArray[Any]]]) -> bool:
    """Whether what is given for three samples is what is given for one and for two of them."""
    one, two, all_three = (given(size) for size in BATCHES)
    return all(_is_joined((one[name], two[name]), array) for name, array in all_three.items())


def branches(whole: Whole) -> bool:
    """Whether values of the inputs, and not only their shapes, decide between ways in a graph.

    A condition is one for all samples of a run: such samples cannot share one.
    """
    values = {value.name for value in real_inputs(whole.model.graph)}
    for node in whole.model.graph.node:
        ways = {"If": node.input[:1], "Loop": node.input[:2]}.get(node.op_type, [])
        if values.intersection(ways):
            return True
        if node.op_type not in SHAPES and values.intersection(used(node)):
            values.update(node.output)
    return False


def is_open(contract: Contract) -> bool:
    """Whether the first axis of all inputs and outputs has any size."""
    return all(spec.shape[:1] == (ANY,) for spec in (*contract.inputs, *contract.outputs))


def _with(
    contract: Contract, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Contract:
    return Contract(
        model=contract.model,
        inputs=inputs,
        outputs=outputs,
        task=contract.task,
        labels=contract.labels,
    )


def _of_one(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The same tensors with one sample."""
    return tuple(TensorSpec(one.name, one.datatype, (1, *one.shape[1:])) for one in specs)


def _spec(what: str, value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        told = str(kind or "value without a type").removesuffix("_type").replace("_", " ")
        raise ModelLoadFailedError(f"{what} {value.name!r} is a {told}: only tensors are served")
    tensor = value.type.tensor_type
    datatype = _KINDS.get(tensor.elem_type)
    if datatype is None:
        names = {number: name for name, number in onnx.TensorProto.DataType.items()}
        told = names.get(tensor.elem_type, str(tensor.elem_type)).lower()
        raise ModelLoadFailedError(
            f"{what} {value.name!r} is a tensor of {told}, which is not served:"
            f" {', '.join(_KINDS.values())} are"
        )
    if what == "input" and not tensor.HasField("shape"):
        raise ModelLoadFailedError(f"{what} {value.name!r} has no rank: export it with one")
    dims = tensor.shape.dim
    if len(dims) > MAX_RANK:
        raise ModelLoadFailedError(
            f"{what} {value.name!r} has {len(dims)} axes: at most {MAX_RANK} are served"
        )
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else ANY for dim in dims)
    return TensorSpec(value.name, datatype, shape)


def _arrays(contract: Contract, outputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    found = {spec.name: outputs[spec.name] for spec in contract.outputs}
    for spec in contract.outputs:
        array = found[spec.name]
        if not isinstance(array, np.ndarray) or _name_of(array) != spec.datatype:
            told = _name_of(array) if isinstance(array, np.ndarray) else type(array).__name__
            raise ModelLoadFailedError(
                f"output {spec.name!r} is declared as {spec.datatype} and comes as {told}"
            )
    return found


def _name_of(array: NDArray[Any]) -> str:
    try:
        return _KINDS[onnx.helper.np_dtype_to_tensor_dtype(array.dtype)]
    except (KeyError, ValueError, TypeError):
        return str(array.dtype)


def _seen(spec: TensorSpec, array: NDArray[Any], *, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """An output's shape: as declared where that is so, else open where it differs."""
    if len(spec.shape) == array.ndim:
        pairs = zip(spec.shape, array.shape, strict=True)
        return TensorSpec(spec.name, spec.datatype, tuple(a if a == b else ANY for a, b in pairs))
    # Not declared, or wrongly: then a size is only sure where no input has an open axis.
    fixed = all(ANY not in one.shape for one in inputs)
    return TensorSpec(spec.name, spec.datatype, array.shape if fixed else (ANY,) * array.ndim)


def _is_joined(parts: Sequence[NDArray[Any]], joined: NDArray[Any]) -> bool:
    if not joined.ndim or [len(part) for part in parts if part.ndim] != [1, 2]:
        return False
    if any(part.shape[1:] != joined.shape[1:] for part in parts) or len(joined) != BATCHES[-1]:
        return False
    expected = np.concatenate(parts)
    if joined.dtype.kind != "f":
        return bool(np.array_equal(expected, joined))
    wide, found = expected.astype(np.float64), joined.astype(np.float64)
    largest = float(np.abs(wide[np.isfinite(wide)]).max(initial=1e-12))
    return bool(np.allclose(found, wide, rtol=0, atol=CLOSE * largest, equal_nan=True))
