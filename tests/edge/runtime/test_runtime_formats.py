"""Formats of ONNX files, read without `onnx`, and what ONNX Runtime's GPU providers are told."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from aimass_edge.config import BoardSettings, EngineSettings
from aimass_edge.runtime.backends import CPU, CUDA, TENSORRT
from aimass_edge.runtime.formats import formats_of
from aimass_edge.runtime.onnx import provider_options
from aimass_shared.errors import ModelLoadFailedError

ROWS, COLUMNS = 3, 2


def saved(
    path: Path, *, half: bool = False, quantized: bool = False, rows: str | int = "n"
) -> Path:
    """A product of matrices in one format."""
    weights = np.ones((ROWS, COLUMNS), np.float16 if half else np.float32)
    constants = [numpy_helper.from_array(weights, "w")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if quantized:
        constants = [
            numpy_helper.from_array(np.ones((ROWS, COLUMNS), np.int8), "q"),
            numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
        ]
        nodes = [helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]), *nodes]
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kind, [rows, ROWS])],
        [helper.make_tensor_value_info("y", kind, [rows, COLUMNS])],
        constants,
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    path.write_bytes(onnx.ModelProto.SerializeToString(model))
    return path


def test_formats_are_those_of_weights_and_operators(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert formats_of(saved(path)) == ("fp32",)
    assert formats_of(saved(path, half=True)) == ("fp16",)
    assert formats_of(saved(path, quantized=True)) == ("fp32", "int8")


@pytest.mark.parametrize("raw", [b"", b"\x0f", b"\x3a\x05\x01", b"\xff" * 20])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(raw)
    with pytest.raises(ModelLoadFailedError, match=r"bad\.onnx cannot be read as ONNX"):
        formats_of(path)
    with pytest.raises(ModelLoadFailedError):
        formats_of(tmp_path / "none.onnx")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_damage_escapes_as_a_foreign_error(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(saved(tmp_path / "whole.onnx", quantized=True).read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
    try:
        assert set(formats_of(path)) <= {"fp16", "fp32", "int8"}
    except ModelLoadFailedError:
        return


def test_the_tensorrt_provider_keeps_engines_of_one_profile(tmp_path: Path) -> None:
    engines = EngineSettings(folder=str(tmp_path / "engines"), kept=2, most_batch=16)
    board = BoardSettings(engines=engines, memory_mib=512)
    options = provider_options(TENSORRT, saved(tmp_path / "half.onnx", half=True), board)
    folder = tmp_path / "engines" / "onnxruntime"
    assert folder.is_dir()
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == str(folder)
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("1", "0")
    assert options["trt_profile_min_shapes"] == options["trt_profile_opt_shapes"] == "x:1x3"
    assert options["trt_profile_max_shapes"] == "x:16x3"
    for number in range(4):
        (folder / f"{number}.engine").write_bytes(b"an engine")
    options = provider_options(TENSORRT, saved(tmp_path / "fixed.onnx", rows=1), board)
    assert len(list(folder.glob("*.engine"))) == 2
    assert (options["trt_fp16_enable"], "trt_profile_max_shapes" in options) == ("0", False)


def test_cuda_has_the_memory_of_the_board_and_the_processor_no_options(tmp_path: Path) -> None:
    board = BoardSettings(memory_mib=512)
    path = saved(tmp_path / "model.onnx")
    assert provider_options(CUDA, path, board)["gpu_mem_limit"] == str(512 << 20)
    assert provider_options(CPU, path, board) == {}
