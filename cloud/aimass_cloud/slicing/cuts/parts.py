"""Head and tail of a cut as ONNX models of their own, each with what it uses and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import onnx

from aimass_cloud.slicing.cuts.dag import Dag, used
from aimass_cloud.slicing.cuts.files import has_files, save
from aimass_cloud.slicing.cuts.listing import Cut, outputs_of
from aimass_cloud.slicing.cuts.reading import Whole, is_beside
from aimass_cloud.slicing.cuts.running import Values
from aimass_cloud.slicing.cuts.shapes import Sizes, Tensors
from aimass_shared.errors import ModelLoadFailedError, NotFoundError, UncuttableModelError

Side = Literal["head", "tail"]
OLDEST_IR = 4
"""Before it, stored tensors had to be inputs too."""


@dataclass(frozen=True)
class Part:
    """One side of a cut.

    Attributes:
        model: weights in files beside the whole are named, not read.
        folder: where such files are.
    """

    side: Side
    model: onnx.ModelProto
    folder: Path | None

    @property
    def inputs(self) -> list[str]:
        """Names of what it takes."""
        return [value.name for value in self.model.graph.input]

    @property
    def outputs(self) -> list[str]:
        """Names of what it gives."""
        return [value.name for value in self.model.graph.output]

    def save(self, path: Path) -> list[Path]:
        """Write it with all its weights; the files, the ONNX file first.

        Raises:
            ModelLoadFailedError: weights cannot be read.
        """
        return save(self.model, self.folder, path)


def split(
    whole: Whole, cut: Cut, *, sizes: Sizes | None = None, inputs: Values | None = None
) -> tuple[Part, Part]:
    """Head and tail of a cut, checked.

    The head takes the inputs that it needs and gives what crosses and what `cut.early` names. The
    tail takes what crosses, inputs of the model too, and gives the other outputs. Names, types and
    shapes are those of the whole.

    Args:
        whole: the model.
        cut: one of its cuts.
        sizes: of symbolic axes, where a type can only be seen in a run.
        inputs: of that run; normal numbers if there are none.

    Raises:
        NotFoundError: the cut is none of this model.
        UncuttableModelError: nothing tells the type of a tensor that crosses.
        ModelLoadFailedError: a part is not valid.
    """
    dag = Dag(whole.model.graph)
    head = _head_of(dag, cut)
    tensors = Tensors(whole, sizes or {}, inputs)
    _learn(tensors, cut)
    nodes: tuple[list[onnx.NodeProto], list[onnx.NodeProto]] = ([], [])
    for index, node in enumerate(dag.nodes):
        nodes[0 if head >> index & 1 else 1].append(node)
    given = set(dag.named(dag.inputs))
    wanted = {name for node in nodes[0] for name in used(node)}
    made = [name for name in cut.names if name not in given]
    ends = [name for name in cut.early if name not in made]
    rest = [name for name in outputs_of(whole) if name not in {*cut.early, *given}]
    assembly = _Assembly(whole, dag, tensors)
    parts = (
        assembly.part("head", nodes[0], (sorted(given & wanted), made + ends)),
        assembly.part("tail", nodes[1], (list(cut.names), rest)),
    )
    for part in parts:
        _label(part, whole, cut)
        _check(part, whole)
    return parts


def _learn(tensors: Tensors, cut: Cut) -> None:
    tensors.look(cut.names, sizes=False)
    for name in cut.names:
        if why := tensors.refusal(name):
            raise UncuttableModelError(f"tensor {name!r} {why}: choose another cut")


def _head_of(dag: Dag, cut: Cut) -> int:
    crossing = dag.tensors(cut.names)
    head = dag.head(crossing)
    if crossing.bit_count() != len(cut.names) or dag.crossing(head) != crossing:
        raise NotFoundError(f"cut {cut.id} is none of this model")
    return head


class _Assembly:
    """What both parts of a model are made from."""

    def __init__(self, whole: Whole, dag: Dag, tensors: Tensors) -> None:
        self._whole, self._tensors = whole, tensors
        self._constant = dag.constant
        graph = whole.model.graph
        self._known = {value.name: value for value in (*graph.input, *graph.output)}
        self._order = {name: i for i, node in enumerate(graph.node) for name in node.output}

    def part(
        self, side: Side, nodes: Sequence[onnx.NodeProto], ends: tuple[list[str], list[str]]
    ) -> Part:
        """A model of nodes, with the constants that they use."""
        source = self._whole.model
        all_nodes, names = self._with_constants(nodes, set(ends[1]))
        model = onnx.ModelProto()
        model.ir_version = max(source.ir_version, OLDEST_IR)
        model.producer_name = "aimass"
        model.opset_import.extend(source.opset_import)
        model.metadata_props.extend(source.metadata_props)
        graph = model.graph
        graph.name = f"{source.graph.name or 'model'}-{side}"
        graph.node.extend(all_nodes)
        graph.input.extend(self._value(name) for name in ends[0])
        graph.output.extend(self._value(name) for name in ends[1])
        held = source.graph
        graph.initializer.extend(one for one in held.initializer if one.name in names)
        graph.sparse_initializer.extend(
            one for one in held.sparse_initializer if one.values.name in names
        )
        return Part(side, model, self._whole.folder if has_files(model) else None)

    def _with_constants(
        self, nodes: Sequence[onnx.NodeProto], names: set[str]
    ) -> tuple[list[onnx.NodeProto], set[str]]:
        """The nodes with the constant ones that they need, in order, and all names in use."""
        names = names.union(*map(used, nodes))
        found = list(nodes)
        for node in reversed(self._constant):
            if names.intersection(node.output):
                found.append(node)
                names |= used(node)
        return sorted(found, key=self._place), names

    def _place(self, node: onnx.NodeProto) -> int:
        return min(self._order[name] for name in node.output if name)

    def _value(self, name: str) -> onnx.ValueInfoProto:
        return self._known[name] if name in self._known else self._tensors.value_info(name)


def _label(part: Part, whole: Whole, cut: Cut) -> None:
    """Say in the file what it is a part of."""
    labels = {
        "aimass.part": part.side,
        "aimass.cut": cut.id,
        "aimass.whole": whole.digest,
        "aimass.crossing": msgspec.json.encode(cut.names).decode(),
    }
    for key, value in labels.items():
        part.model.metadata_props.add(key=key, value=value)


def _check(part: Part, whole: Whole) -> None:
    """Check a part as strictly as the whole stands it.

    Raises:
        ModelLoadFailedError: it is not valid.
    """
    error = _fault(part.model)
    if error is not None and _fault(whole.model) is None:
        raise ModelLoadFailedError(f"the {part.side} is not valid: {error}") from error


def _fault(model: onnx.ModelProto) -> Exception | None:
    """What is wrong in structure, types or shapes; weights in other files are not opened."""
    try:
        onnx.checker.check_model(_without_weights(model), full_check=True)
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return error
    return None


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the tensors of other files as inputs: their types are known, no number is."""
    if not has_files(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in [one for one in copy.graph.initializer if is_beside(one)]:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        copy.graph.input.append(value)
        copy.graph.initializer.remove(tensor)
    return copy
