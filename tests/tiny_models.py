"""Models of three tasks that take requests only, whose answers can be worked out by hand.

* `CLASSIFIER`: an 8 x 8 picture -> which third of it is the brightest, as probabilities and number.
* `MATCHER`: two texts -> how many of their known words they share.
* `RANKER`: the items of the past, oldest first -> the two that come next, in a circle.

`BRITTLE` is a classifier that proves itself on one picture and fails on two.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from aimass_shared.manifest import Contract, FileRef, Manifest, Role, SliceEntry, TensorSpec, encode
from aimass_shared.slices import SliceCost, SliceSpec
from aimass_shared.vocabulary import Vocabulary, pack

Arrays = dict[str, NDArray[Any]]
TYPES = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64}
NAMES: Mapping[Role, str] = {
    "model": "model.onnx",
    "selftest": "selftest.npz",
    "vocabulary": "vocabulary.json",
}
SPEC = SliceSpec(1.0, "fp32")
NOTHING: Mapping[Role, bytes] = {}


class Tiny(NamedTuple):
    """A slice, what is asked of it and what it must answer.

    `broken` is a model file that answers otherwise.
    """

    contract: Contract
    contents: dict[Role, bytes]
    broken: bytes
    asked: Arrays
    answer: Arrays

    def entry(self, changed: Mapping[Role, bytes] = NOTHING) -> SliceEntry:
        """The slice as a release has it."""
        contents = {**self.contents, **changed}
        files = tuple(
            FileRef(role, NAMES[role], hashlib.sha256(body).hexdigest(), len(body))
            for role, body in contents.items()
        )
        return SliceEntry(SPEC, SliceCost(len(contents["model"]), 1.0, 0.1, 0.5), files, 1e-4)

    def manifest(self, release: str, entry: SliceEntry | None = None) -> Manifest:
        return Manifest(release, self.contract.model, self.contract, (entry or self.entry(),), 0)

    def write(self, folder: Path, changed: Mapping[Role, bytes] = NOTHING) -> Path:
        """Its files, as an install has them."""
        folder.mkdir(parents=True, exist_ok=True)
        for role, body in {**self.contents, **changed}.items():
            (folder / NAMES[role]).write_bytes(body)
        return folder

    def install(self, folder: Path, release: str = "r1") -> Path:
        """Its files and documents, as the self-test finds them."""
        reference = {"release": release, "path": "p", "slice": SPEC.name}
        self.write(folder)
        (folder / "manifest.json").write_bytes(encode(self.manifest(release)))
        (folder / "slice.json").write_bytes(msgspec.json.encode(reference))
        return folder


def archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The file of a self-test: names begin with `in.` or `out.`."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its named arguments are arrays
    return file.getvalue()


def texts(*values: str) -> NDArray[Any]:
    return np.array(values, object)


class Graph(NamedTuple):
    nodes: list[onnx.NodeProto]
    constants: Arrays
    broken: Arrays


def _tiny(
    contract: Contract,
    graph: Graph,
    asked: Arrays,
    answer: Arrays,
    vocabulary: Vocabulary | None = None,
) -> Tiny:
    length = vocabulary.length if vocabulary else 0
    vectors = {f"in.{name}": _ids(a, vocabulary) for name, a in asked.items()} | {
        f"out.{name}": a.astype(str) if a.dtype == object else a for name, a in answer.items()
    }
    contents: dict[Role, bytes] = {
        "model": _model(contract, graph, length),
        "selftest": archive(vectors),
    }
    if vocabulary is not None:
        contents["vocabulary"] = pack(vocabulary)
    other = graph._replace(constants=graph.constants | graph.broken)
    return Tiny(contract, contents, _model(contract, other, length), asked, answer)


def _ids(array: NDArray[Any], vocabulary: Vocabulary | None) -> NDArray[Any]:
    return vocabulary.encode(array.tolist()) if vocabulary and array.dtype == object else array


def _model(contract: Contract, graph: Graph, length: int) -> bytes:
    def info(spec: TensorSpec, *, taken: bool) -> onnx.ValueInfoProto:
        shape: list[str | int | None] = ["batch", *spec.shape[1:]]
        if spec.datatype == "BYTES":
            shape += [length] if taken else []
        kind = TYPES.get(spec.datatype, TensorProto.INT64)
        return helper.make_tensor_value_info(spec.name, kind, shape)

    made = helper.make_graph(
        graph.nodes,
        contract.model,
        [info(spec, taken=True) for spec in contract.inputs],
        [info(spec, taken=False) for spec in contract.outputs],
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401  # of ONNX
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def _classifier(*, brittle: bool = False) -> Tiny:
    rows = slice(1) if brittle else slice(2)
    flat = _node("Reshape", "image one", "flat") if brittle else _node("Flatten", "image", "flat")
    thirds = np.zeros((64, 3), np.float32)
    for place in range(64):
        thirds[place, min(2, place % 8 // 3)] = 1.0
    pictures = np.zeros((2, 1, 8, 8), np.float32)
    pictures[0, 0, :, 4] = 0.5
    pictures[1, 0, :, 7] = 0.5
    high, low = np.exp(4) / (np.exp(4) + 2), 1 / (np.exp(4) + 2)
    return _tiny(
        Contract(
            model="surface",
            inputs=(TensorSpec("image", "FP32", (-1, 1, 8, 8)),),
            outputs=(
                TensorSpec("probability", "FP32", (-1, 3)),
                TensorSpec("label", "INT64", (-1,)),
            ),
            task="classify",
            labels=("left", "middle", "right"),
        ),
        Graph(
            [
                flat,
                _node("MatMul", "flat thirds", "logits"),
                _node("Softmax", "logits", "probability", axis=1),
                _node("ArgMax", "logits", "label", axis=1, keepdims=0),
            ],
            {"thirds": thirds, "one": np.array([1, 64])},
            broken={"thirds": thirds[:, [1, 2, 0]]},
        ),
        asked={"image": pictures[rows]},
        answer={
            "probability": np.array([[low, high, low], [low, low, high]], np.float32)[rows],
            "label": np.array([1, 2])[rows],
        },
    )


def _matcher() -> Tiny:
    words = Vocabulary("words", ("pump", "valve", "leaks", "is", "hot"), length=6)
    table = np.eye(words.size, dtype=np.float32)
    table[0] = table[-1] = 0.0  # padding, and words that are not known
    return _tiny(
        Contract(
            model="pairs",
            inputs=(TensorSpec("first", "BYTES", (-1,)), TensorSpec("second", "BYTES", (-1,))),
            outputs=(TensorSpec("match", "FP32", (-1,)),),
            task="match",
        ),
        Graph(
            [
                _node("Gather", "table first", "vectors.first"),
                _node("Gather", "table second", "vectors.second"),
                _node("ReduceMax", "vectors.first", "has.first", axes=[1], keepdims=0),
                _node("ReduceMax", "vectors.second", "has.second", axes=[1], keepdims=0),
                _node("Mul", "has.first has.second", "both"),
                _node("ReduceSum", "both axis", "match", keepdims=0),
            ],
            {"table": table, "axis": np.array([1])},
            broken={"table": 2 * table},
        ),
        vocabulary=words,
        asked={
            "first": texts("The PUMP leaks!", "valve is hot", ""),
            "second": texts("a pump is leaking: it leaks", "Ventil ist heiß", "pump"),
        },
        answer={"match": np.array([2.0, 0.0, 0.0], np.float32)},
    )


def _ranker() -> Tiny:
    items = Vocabulary("items", ("A-1", "B-2", "C-3", "D-4"), length=3)
    after = np.zeros((items.size, items.size), np.float32)
    for item in range(1, items.size):
        after[item, item % 4 + 1] = 1.0
    after[:, 0] = -1.0  # padding is never next
    weight = np.array([[1.0], [2.0], [4.0]], np.float32)  # the newest counts most
    return _tiny(
        Contract(
            model="next",
            inputs=(TensorSpec("history", "BYTES", (-1,)),),
            outputs=(
                TensorSpec("item", "BYTES", (-1, 2)),
                TensorSpec("score", "FP32", (-1, 2)),
            ),
            task="rank",
        ),
        Graph(
            [
                _node("Gather", "after history", "each"),
                _node("Mul", "each weight", "weighted"),
                _node("ReduceSum", "weighted axis", "scores", keepdims=0),
                _node("TopK", "scores two", "score item", axis=1),
            ],
            {"after": after, "weight": weight, "axis": np.array([1]), "two": np.array([2])},
            broken={"after": after[:, [0, 2, 1, 3, 4]]},
        ),
        vocabulary=items,
        asked={"history": texts("X B-2 C-3 D-4", "B-2 A-1")},
        answer={
            "item": np.array([["A-1", "D-4"], ["B-2", "C-3"]], object),
            "score": np.array([[4.0, 2.0], [4.0, 2.0]], np.float32),
        },
    )


CLASSIFIER, MATCHER, RANKER = _classifier(), _matcher(), _ranker()
BRITTLE = _classifier(brittle=True)
ALL = (CLASSIFIER, MATCHER, RANKER)


def name_of(tiny: Tiny) -> str:
    """For pytest's ids."""
    return tiny.contract.model


def assert_same(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    """Floats nearly, all else exactly."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        if array.dtype.kind == "f":
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)
        else:
            assert found[name].tolist() == array.tolist(), name
