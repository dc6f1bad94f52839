"""Users' own ONNX models: what becomes of each kind, in this process; crashes in one of its own."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import psutil
import pytest
from onnx import parser
from tests import graphs

from aimass_cloud.slicing import importing
from aimass_cloud.slicing.cuts import TOLERANCE
from aimass_cloud.slicing.cuts.running import Runner
from aimass_cloud.slicing.importing import Tell, imported
from aimass_cloud.slicing.isolating import (
    IMPORTED,
    ORDER,
    SOURCE,
    Imported,
    Limits,
    Order,
    isolated,
)
from aimass_shared.errors import (
    AimassError,
    BadTensorError,
    DeadlineExceededError,
    ModelLoadFailedError,
    SelfTestFailedError,
    UncuttableModelError,
)
from aimass_shared.manifest import SliceArtifact
from aimass_shared.planning.profiles import decode

HEAD = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>\n'
LIMITS = Limits(deadline_s=60, memory_mib=4096)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are not looked at here: measure for an instant."""
    monkeypatch.setattr(importing, "SECONDS", 0.001)


def stage(folder: Path, model: onnx.ModelProto, **order: Any) -> Path:  # noqa: ANN401  # fields
    """A model where an import finds it."""
    (folder / SOURCE).mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / SOURCE / "model.onnx")
    wanted = Order(name="own", graph="model.onnx", **{"classes": ("cpu",), **order})
    (folder / ORDER).write_bytes(msgspec.json.encode(wanted))
    return folder


def samples(folder: Path, **arrays: Any) -> str:  # noqa: ANN401  # arrays
    (folder / SOURCE).mkdir(parents=True, exist_ok=True)
    np.savez(folder / SOURCE / "samples.npz", **arrays)
    return "samples.npz"


def made(folder: Path, model: onnx.ModelProto, **order: Any) -> Imported:  # noqa: ANN401  # fields
    return imported(stage(folder, model, **order), Tell())


def file(artifact: SliceArtifact, role: str) -> Path:
    return Path(next(path for kind, path in artifact.files if kind == role))


def shapes(found: Imported) -> list[list[int]]:
    contract = found.contract
    return [list(spec.shape) for spec in (*contract.inputs, *contract.outputs)]


SHAPES = {
    "mobilenet": [[-1, 3, 16, 16], [-1, 5]],
    "resnet": [[1, 3, 16, 16], [1, 4]],
    "transformer": [[-1, -1, 16], [-1, 3]],
    "yolo": [[-1, 3, 32, 32], [-1, 4, 80], [-1, 2, 80]],
    "late input": [[-1, 8], [-1, 8], [-1], [-1, 8]],
    "picked rows": [[1, 6], [1, 2]],
    "if": [[1, 4], [1, 4]],
    "loop": [[-1, 4], [-1, 4]],
    "scan": [[5, -1], [5, -1], [-1]],
    "functions": [[-1, 4], [-1, 4]],
    "half precision": [[-1, 4], [-1, 4]],
    "opset 7, IR 3": [[1, 3, 8, 8], [1, 2]],
}
"""A first axis is open where samples do not change each other's answers, else 1."""


@pytest.mark.parametrize("name", SHAPES)
def test_each_kind_of_model_gets_its_contract_slices_and_plans(tmp_path: Path, name: str) -> None:
    found = made(tmp_path, graphs.GRAPHS[name](), cuts=2)
    assert shapes(found) == SHAPES[name]
    whole, *cut = found.slices
    assert whole.spec.name == "w1.00-fp32"
    assert cut
    plans = decode(file(whole, "plans").read_bytes())
    places = [one.candidate.place for one in plans.profiles]
    assert places.count("edge") == 1
    assert "cloud" in places
    assert places.count("split") >= len(cut)
    inputs = vectors(whole, "in.")
    expected = Runner(onnx.load_model(file(whole, "model"))).run(inputs)
    for artifact in cut:
        check_halves(artifact, inputs, expected)


def vectors(artifact: SliceArtifact, prefix: str) -> dict[str, Any]:
    with np.load(file(artifact, "selftest")) as archive:
        return {n.removeprefix(prefix): archive[n] for n in archive.files if n.startswith(prefix)}


def check_halves(artifact: SliceArtifact, inputs: Any, expected: Any) -> None:  # noqa: ANN401  # arrays
    """Both files of a slice together give what the whole gives, and say what they take."""
    halves = artifact.halves
    assert halves is not None
    assert artifact.codec in {"none", "fp16", "int8"}
    assert halves.max_abs_error <= 4e-3
    assert vectors(artifact, "in.").keys() == set(halves.takes)
    between = {**inputs, **Runner(onnx.load_model(file(artifact, "model"))).run(inputs)}
    crossing = {one.name: between[one.name] for one in halves.crossing}
    ends = Runner(onnx.load_model(file(artifact, "tail"))).run(crossing)
    assert ends.keys() | set(halves.early) == expected.keys()
    for name, array in expected.items():
        limit = TOLERANCE if array.dtype == np.float32 else 4e-3
        np.testing.assert_allclose({**between, **ends}[name], array, rtol=0, atol=limit)


def test_weights_in_files_beside_it_come_into_the_one_file_of_a_slice(tmp_path: Path) -> None:
    stage(tmp_path, graphs.mobilenet(), cuts=1)
    graphs.with_files(graphs.mobilenet(), tmp_path / SOURCE / "model.onnx")
    whole, cut = imported(tmp_path, Tell()).slices
    assert sorted(path.name for path in file(whole, "model").parent.iterdir()) == [
        "model.onnx",
        "selftest.npz",
    ]
    inputs = {"image": np.ones((2, 3, 16, 16), np.float32)}
    expected = Runner(graphs.mobilenet()).run(inputs)
    assert Runner(onnx.load_model(file(whole, "model"))).run(inputs).keys() == expected.keys()
    check_halves(cut, inputs, expected)


def test_samples_choose_and_judge_each_on_their_own_half(tmp_path: Path) -> None:
    pictures = np.random.default_rng(1).standard_normal((9, 3, 16, 16)).astype(np.float32)
    name = samples(tmp_path, image=pictures)
    found = made(tmp_path, graphs.mobilenet(), samples=name, labels=tuple("abcde"), cuts=1)
    assert found.metrics["samples"] == 9
    assert (found.contract.task, found.contract.labels) == ("classify", tuple("abcde"))
    whole, *_, cut = found.slices
    np.testing.assert_array_equal(vectors(whole, "in.")["image"], pictures[:2])
    assert (whole.cost.val_error, cut.cost.val_error) == (0.0, 0.0)


def test_number_formats_are_made_where_samples_tell_their_ranges(tmp_path: Path) -> None:
    tokens = np.random.default_rng(1).standard_normal((32, 6, 16)).astype(np.float32)
    name = samples(tmp_path, tokens=tokens)
    found = made(tmp_path, graphs.transformer(), samples=name, cuts=0)
    made_of = {one.spec.precision: one for one in found.slices}
    assert made_of.keys() - {"fp32"}
    assert made_of.keys() | {one[6:] for one in found.metrics.get("left_out", {})} == {
        *("fp32", "int8", "int8-dyn")
    }
    for precision, artifact in made_of.items():
        assert artifact.cost.val_error <= 0.01
        outputs = Runner(onnx.load_model(file(artifact, "model"))).run(vectors(artifact, "in."))
        for output, array in vectors(artifact, "out.").items():
            np.testing.assert_allclose(outputs[output], array, rtol=0, atol=1e-6, err_msg=precision)
    candidates = decode(file(found.slices[0], "plans").read_bytes()).profiles
    places = {(one.candidate.place, one.candidate.precision) for one in candidates}
    assert places >= {("edge", precision) for precision in made_of}


def test_without_samples_or_an_open_batch_there_is_float_alone(tmp_path: Path) -> None:
    found = made(tmp_path / "drawn", graphs.transformer(), cuts=0)
    assert [one.spec.name for one in found.slices] == ["w1.00-fp32"]
    name = samples(tmp_path / "fixed", image=np.zeros((4, 3, 16, 16), np.float32))
    fixed = made(tmp_path / "fixed", graphs.resnet(), samples=name, cuts=0)
    assert [one.spec.name for one in fixed.slices] == ["w1.00-fp32"]
    assert "open batch" in fixed.metrics["left_out"]["w1.00-int8"]


def test_samples_of_a_fixed_batch_are_taken_so_many_at_once(tmp_path: Path) -> None:
    model = parser.parse_model(
        HEAD + "g (float[4, 3] x) => (float[4, 3] y) { h = Tanh(x) y = Softmax(h) }"
    )
    name = samples(tmp_path, x=np.zeros((9, 3), np.float32))
    found = made(tmp_path, model, samples=name, cuts=1)
    assert (shapes(found), found.metrics["samples"]) == ([[4, 3], [4, 3]], 2)
    assert found.slices[1].halves is not None
    assert not found.slices[1].halves.batched


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"picture": np.zeros((2, 3, 16, 16), np.float32)}, "the model takes image"),
        ({"image": np.zeros((2, 3, 16, 16))}, "FP64"),
        ({"image": np.zeros((0, 3, 16, 16), np.float32)}, "one at least"),
        ({"image": np.float32(1)}, "one at least"),
        ({"image": np.zeros((2, 3, 8, 8), np.float32)}, "expected FP32"),
    ],
)
def test_samples_that_are_not_its_inputs_are_refused(
    tmp_path: Path, arrays: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadTensorError, match=said):
        made(tmp_path, graphs.mobilenet(), samples=samples(tmp_path, **arrays))


def test_samples_that_all_take_one_way_do_not_hide_the_other(tmp_path: Path) -> None:
    name = samples(tmp_path, x=np.full((8, 4), 2.0, np.float32))
    found = made(tmp_path, graphs.GRAPHS["if"](), samples=name, cuts=0)
    assert shapes(found) == [[1, 4], [1, 4]]


def test_labels_that_are_too_few_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTensorError, match="2 labels"):
        made(tmp_path, graphs.mobilenet(), labels=("a", "b"))


def test_samples_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    stage(tmp_path, graphs.mobilenet(), samples="samples.npz")
    (tmp_path / SOURCE / "samples.npz").write_bytes(b"PK nothing")
    with pytest.raises(BadTensorError, match="must be an"):
        imported(tmp_path, Tell())


REFUSED: dict[str, tuple[str, type[AimassError], str]] = {
    "a list comes out": (
        "g (float[n, 4] x) => (seq(float[n, 4]) y) { h = Relu(x) y = SequenceConstruct(h, x) }",
        ModelLoadFailedError,
        "output 'y' is a sequence",
    ),
    "texts go in": (
        "g (string[n] x) => (string[n] y) { y = Identity(x) }",
        ModelLoadFailedError,
        "input 'x' is a tensor of string",
    ),
    "short floats": (
        "g (bfloat16[n, 4] x) => (float[n, 4] y) { y = Cast <to = 1> (x) }",
        ModelLoadFailedError,
        "of bfloat16",
    ),
    "nothing goes in": (
        "g () => (float[2] y) { y = Constant <value = float[2] {1, 2}> () }",
        ModelLoadFailedError,
        "0 inputs",
    ),
    "an operator of another domain": (
        "g (float[n, 4] x) => (float[n, 4] y) { h = Relu(x) y = acme.Magic(h) }",
        ModelLoadFailedError,
        "acme",
    ),
    "random numbers": (
        "g (float[n, 4] x) => (float[n, 4] y) { h = RandomNormalLike(x) y = Add(h, x) }",
        UncuttableModelError,
        "RandomNormalLike",
    ),
    "no finite number": (
        "g (float[n, 4] x) => (float[n, 4] y) { h = Abs(x) k = Neg(h) y = Log(k) }",
        SelfTestFailedError,
        "give samples",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, name: str) -> None:
    text, kind, said = REFUSED[name]
    with pytest.raises(kind, match=said):
        made(tmp_path, parser.parse_model(HEAD + text))


def test_a_model_of_one_node_has_no_cuts_and_is_served(tmp_path: Path) -> None:
    found = made(
        tmp_path, parser.parse_model(HEAD + "g (float[n] x) => (float[n] y) { y = Abs(x) }")
    )
    assert [one.spec.name for one in found.slices] == ["w1.00-fp32"]


HANGS = (
    HEAD
    + """g (float[n, 4] x) => (float[n, 4] y)
<int64 times = {9000000000000000000}, bool go = {1}>
{ s = Relu(x) y = Loop (times, go, s) <
  body = one (int64 i, bool on, float[n, 4] s) => (bool still, float[n, 4] next)
  { still = Identity (on) next = Tanh (s) } > }"""
)


async def test_a_model_that_ends_or_holds_its_process_is_one_clear_error(tmp_path: Path) -> None:
    crash, hang, good = (
        stage(tmp_path / name, model, cuts=1)
        for name, model in (
            ("crash", parser.parse_model(HANGS)),
            ("hang", parser.parse_model(HANGS)),
            ("good", graphs.resnet()),
        )
    )

    def kill(_done: float, told: str) -> None:
        """As a fault of the runtime, or a machine without memory, does."""
        if told == "running the model":
            (child,) = (
                one for one in psutil.Process().children() if str(crash) in " ".join(one.cmdline())
            )
            child.send_signal(signal.SIGSEGV)

    async def crashes() -> None:
        with pytest.raises(ModelLoadFailedError, match="ended by SIGSEGV while running the model"):
            await isolated(crash, LIMITS, kill)

    async def hangs() -> None:
        with pytest.raises(DeadlineExceededError, match="took more than 4 s"):
            await isolated(hang, Limits(4, 4096), lambda _done, _told: None)

    await asyncio.gather(crashes(), hangs(), isolated(good, LIMITS, lambda _done, _told: None))
    assert not (crash / IMPORTED).exists()
    found = msgspec.json.decode((good / IMPORTED).read_bytes(), type=Imported)
    assert len(found.slices) == 2


async def test_a_model_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    text = """g (float[n, 4] x) => (float[n, 4] y)
<float[1] zero = {0}, int64[2] wide = {60000, 60000}>
{ h = Expand(zero, wide) s = ReduceMax<keepdims = 0>(h) y = Add(x, s) }"""
    stage(tmp_path, parser.parse_model(HEAD + text))
    with pytest.raises(ModelLoadFailedError, match="memory"):
        await isolated(tmp_path, LIMITS, lambda _done, _told: None)
