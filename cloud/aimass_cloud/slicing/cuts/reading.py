"""Any ONNX model, made ready to be cut: checked, functions inlined, or refused by name.

Weights in files beside the model stay there until a part that needs them is written: the graph of a
model of any size fits into memory.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, inliner, numpy_helper

from aimass_shared.errors import ModelLoadFailedError, UncuttableModelError

OLDEST_OPSET = 7
"""ONNX Runtime promises nothing for graphs that are older."""

RANDOM = frozenset(
    {
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
    }
)
TRAINING_INPUT = 2
"""Of Dropout: whether it draws."""


@dataclass(frozen=True)
class Whole:
    """A model that can be cut.

    Attributes:
        model: without functions; weights in files beside it are named, not read.
        folder: where such files are; None where there are none.
        digest: SHA-256 of the model as it was given, with the files beside it.
    """

    model: onnx.ModelProto
    folder: Path | None
    digest: str


def read(path: Path) -> Whole:
    """The model in a file.

    Raises:
        ModelLoadFailedError: it is no ONNX model, or a file with its weights is missing.
        UncuttableModelError: it is one, and cannot be cut; the detail says why.
    """
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(str(path))
        names = sorted(files_beside(model))
        digest = _digest(content, [path.parent / name for name in names])
    except OSError as error:
        place = error.filename or path
        raise ModelLoadFailedError(f"{place} cannot be read: {error.strerror}") from error
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelLoadFailedError(f"{path} is no valid ONNX model: {_line(error)}") from error
    return _ready(model, path.parent if names else None, digest)


def whole(model: onnx.ModelProto) -> Whole:
    """A model in memory, with all its weights.

    Raises:
        ModelLoadFailedError: it is not valid.
        UncuttableModelError: it is valid, and cannot be cut; the detail says why.
    """
    try:
        onnx.checker.check_model(model)
    except (ValueError, onnx.checker.ValidationError) as error:
        raise ModelLoadFailedError(f"not a valid ONNX model: {_line(error)}") from error
    content = model.SerializeToString(deterministic=True)
    return _ready(model, None, hashlib.sha256(content).hexdigest())


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors that a model holds, those of its nodes and of subgraphs too."""
    return _tensors_of(model.graph)


def is_beside(tensor: onnx.TensorProto) -> bool:
    """Whether the numbers of a tensor are in another file."""
    return bool(external_data_helper.uses_external_data(tensor))


def files_beside(model: onnx.ModelProto) -> set[str]:
    """Names of the files that hold weights of a model, as it has them."""
    return {place for tensor in tensors(model) for place in _location(tensor)}


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs within a node: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _ready(model: onnx.ModelProto, folder: Path | None, digest: str) -> Whole:
    _check_names(model)
    for domain in model.opset_import:
        _check_opset(domain)
    if model.functions:
        model = _inlined(model)
    _refuse_draws(model.graph)
    return Whole(_named(model), folder, digest)


def _digest(content: bytes, beside: Iterable[Path]) -> str:
    found = hashlib.sha256(content)
    for file in beside:
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


def _check_names(model: onnx.ModelProto) -> None:
    """Names must be text, else no error could tell them; protobuf lets any bytes pass."""
    nodes = [one for function in model.functions for one in function.node]
    names = [function.name for function in model.functions]
    names += [value.name for value in (*model.graph.input, *model.graph.output)]
    for node in (*nodes, *_nodes_of(model.graph)):
        names += [node.name, *node.input, *node.output]
    if not all(isinstance(name, str) for name in names):
        raise ModelLoadFailedError("not a valid ONNX model: a name in it is no UTF-8")


def _nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes_of(inner)


def _check_opset(domain: onnx.OperatorSetIdProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    if domain.domain in ("", "ai.onnx") and not OLDEST_OPSET <= domain.version <= newest:
        raise UncuttableModelError(
            f"the model has opset {domain.version}: {OLDEST_OPSET} to {newest} can be cut;"
            " onnx.version_converter converts it"
        )


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    names = ", ".join(sorted({function.name for function in model.functions}))
    try:
        flat: onnx.ModelProto = inliner.inline_local_functions(model)
    except Exception as error:  # the errors of its C++ have no class of their own
        raise UncuttableModelError(
            f"functions cannot be inlined ({names}): {_line(error)}"
        ) from error
    if flat.functions:
        raise UncuttableModelError(f"functions cannot be inlined: {names}")
    return flat


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """With a name for each axis of an input that has no size and no name.

    The first is a batch; of a list it is one where all inputs are lists.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in copy.graph.input}
    longest = max(map(len, shapes.values()), default=0)
    for name, shape in shapes.items():
        for index, dim in enumerate(shape):
            if not dim.HasField("dim_value") and not dim.dim_param:
                is_batch = index == 0 and (len(shape) > 1 or longest == 1)
                dim.dim_param = "batch" if is_batch else f"{name}_{index}"
    return copy


def _refuse_draws(graph: onnx.GraphProto) -> None:
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if (node.domain in ("", "ai.onnx") and node.op_type in RANDOM) or _drops(node, values):
            raise UncuttableModelError(
                f"node {node.name or node.output[0]!r} draws random numbers ({node.op_type}):"
                " head and tail cannot be shown to equal the whole"
            )
        for inner in subgraphs(node):
            _refuse_draws(inner)


def _drops(node: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node is dropout that is known to be in training."""
    if node.op_type != "Dropout" or len(node.input) <= TRAINING_INPUT:
        return False
    mode = values.get(node.input[TRAINING_INPUT])
    return mode is not None and bool(numpy_helper.to_array(mode))


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for inner in subgraphs(node):
            yield from _tensors_of(inner)


def _location(tensor: onnx.TensorProto) -> list[str]:
    if not is_beside(tensor):
        return []
    return [entry.value for entry in tensor.external_data if entry.key == "location"]


def _line(error: Exception) -> str:
    """The first line of a message: the others are a picture of the node."""
    return str(error).strip().partition("\n")[0]
