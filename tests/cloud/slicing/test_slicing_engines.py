"""What TensorRT makes of ONNX files: verdicts that name the operator, and processes that fail."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser

from aimass_cloud import recipes
from aimass_cloud.cli import main
from aimass_cloud.slicing import engines
from aimass_shared.errors import InvalidSettingError
from aimass_shared.slices import Board, SliceCost, SliceSpec, fits

pytest.importorskip("tensorrt_rtx")
pytest.importorskip("onnx.parser")

HEAD = '<ir_version: 10, opset_import: ["": 20]> graph'
DENSE = (
    f"{HEAD} (float[BATCH, 4] x) => (float[BATCH, 4] y) <float[4, 4] w = {{{','.join('1' * 16)}}}>"
)
TAKEN = {
    "any batch": f"{DENSE} {{ y = MatMul(x, w) }}",
    "one batch": f"{DENSE} {{ y = MatMul(x, w) }}".replace("BATCH", "2"),
    "int8": f"""{DENSE} {{ s = Constant<value_float = 0.1>() z = Constant<value = int8 {{0}}>()
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w) }}""",
}
REFUSED = {
    "ScatterND": f"""{HEAD} (float[3, 2] x) => (float[4, 2] y)
        <int64[3, 1] i = {{0, 1, 0}}, float[4, 2] z = {{0, 0, 0, 0, 0, 0, 0, 0}}>
        {{ y = ScatterND<reduction = "add">(z, i, x) }}""",
    "Det": f"{HEAD} (float[N, 3, 3] x) => (float[N] y) {{ y = Det(x) }}",
    "DynamicQuantizeLinear": f"""{HEAD} (float[N, 4] x) => (float[N, 4] y)
        {{ q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }}""",
}


def model(text: str) -> bytes:
    return parser.parse_model(text).SerializeToString()


def int8_gru() -> bytes:
    """A graph that is parsed and not built: TensorRT has no GRU of rounded weights."""
    random = np.random.default_rng(0)
    weights = {"w": (1, 24, 4), "r": (1, 24, 8)}
    arrays: dict[str, NDArray[Any]] = {
        name: random.integers(-9, 9, shape).astype(np.int8) for name, shape in weights.items()
    }
    arrays["s"] = np.array(0.01, np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wf"]),
        helper.make_node("DequantizeLinear", ["r", "s"], ["rf"]),
        helper.make_node("GRU", ["positive", "wf", "rf"], ["", "h"], hidden_size=8),
        helper.make_node("Tanh", ["h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gru",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, "N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "N", 8])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def test_verdicts_of_a_release_come_in_the_order_of_its_slices() -> None:
    named = {**TAKEN, **REFUSED}
    verdicts = engines.verdicts_of([model(text) for text in named.values()])
    for name, verdict in zip(named, verdicts, strict=True):
        if name in TAKEN:
            assert verdict == "builds", name
        else:
            assert verdict.startswith(f"refused ({name}: "), verdict
    assert "reduction is not supported" in verdicts[len(TAKEN)]


def test_an_operator_that_is_parsed_and_not_built_is_found() -> None:
    verdict = engines.verdict_of(int8_gru())
    assert verdict.startswith("refused (GRU: ")
    assert "\n" not in verdict


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    assert engines.verdict_of(content).startswith("refused (TensorRT: ")


def test_weights_beside_a_file_are_found(tmp_path: Path) -> None:
    graph = onnx.load_model_from_string(model(TAKEN["any batch"]))
    path = tmp_path / "model.onnx"
    onnx.save_model(
        graph, path, save_as_external_data=True, location="model.data", size_threshold=0
    )
    trial = engines.tried(path)
    assert (trial.verdict, trial.builds) == ("builds", True)
    assert trial.engine_bytes > 0
    assert "SM86" in trial.architectures


def test_a_process_that_crashes_or_hangs_is_a_verdict(tmp_path: Path) -> None:
    def of(program: str, deadline_s: float = 60.0) -> str:
        command = [sys.executable, "-c", program]
        return engines.ended(command, tmp_path / "answer.json", deadline_s).verdict

    assert of("import os; os.abort()") == "refused (TensorRT: crashed (status -6))"
    assert of("while True: pass", 0.2) == "refused (TensorRT: took over 0.2 s)"
    # It died after it had found what we asked for.
    (tmp_path / "answer.json").write_text('{"verdict": "builds"}')
    assert of("import os; os.abort()") == "builds"


def test_the_command_says_what_is_built_and_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    good.write_bytes(model(TAKEN["int8"]))
    bad.write_bytes(model(REFUSED["Det"]))
    assert main(["slice", "check", str(good), "--batch", "8"]) == 0
    assert "builds" in capsys.readouterr().out
    assert main(["slice", "check", str(bad), "--json"]) == 1
    assert '"verdict": "refused (Det: not supported)"' in capsys.readouterr().out
    bad.write_bytes(model(REFUSED["ScatterND"]))
    assert main(["slice", "check", str(bad), "--json"]) == 1
    assert '"as_a_slice": "builds"' in capsys.readouterr().out
    assert main(["slice", "check", str(Path(__file__))]) == 1
    assert "refused (TensorRT: " in capsys.readouterr().out
    assert main(["slice", "check", str(tmp_path / "none.onnx")]) == 1
    assert "not-found" in capsys.readouterr().err
    assert main(["slice", "check", str(good), "--batch", "0"]) == 1
    assert InvalidSettingError.code in capsys.readouterr().err


def test_a_size_of_a_free_axis_may_be_given(tmp_path: Path) -> None:
    path = tmp_path / "rows.onnx"
    text = f"{HEAD} (float[N, rows, 4] x) => (float[N, 8, 2] y) <int64[3] s = {{0, 8, 2}}> "
    path.write_bytes(model(text + "{ y = Reshape(x, s) }"))
    assert engines.tried(path, sizes={"rows": 4}).verdict == "builds"
    assert engines.tried(path, sizes={"rows": 5}).verdict.startswith("refused (Reshape: ")


@pytest.mark.parametrize("recipe", recipes.names())
def test_tensorrt_is_asked_about_the_slices_of_every_recipe(recipe: str) -> None:
    """Building them takes models, which the tests of the recipes have: here is that each does."""
    tests = Path(__file__).parent.parent.rglob("test_*.py")
    asking = (file.read_text() for file in tests if file != Path(__file__))
    named = (
        f'"{recipe}"',
        f"import {recipe.replace('-', '_')}",
        f"{recipe.replace('-', '_')} import",
    )
    assert any("engine_bytes(" in text and any(one in text for one in named) for text in asking)


def test_what_is_refused_is_never_for_a_device_with_tensorrt() -> None:
    verdict = engines.verdict_of(model(REFUSED["Det"]))
    cost = SliceCost(1, 1.0, 1.0, 0.0, tensorrt=verdict)
    board = Board("jetson", 64, 1.0, 100.0, precisions=("fp32",), tensorrt=True)
    assert not fits(board, SliceSpec(1.0, "fp32"), cost)
    assert fits(board, SliceSpec(1.0, "fp32"), msgspec.structs.replace(cost, tensorrt="builds"))


def test_without_tensorrt_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    assert engines.verdict_of(b"") == ""
    assert engines.verdicts_of([b"", b""]) == ["", ""]
    assert engines.tried(Path("x.onnx")).verdict == ""
