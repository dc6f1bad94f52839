"""TensorRT behind the session: real parsing and building without a GPU, and runs over host memory.

What needs a GPU is not run here. CUDA's library is stood in for by one of C with its calls on the
memory of the host, so that what is passed to it is checked for real.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from aimass_edge.config import BoardSettings, EngineSettings
from aimass_edge.runtime import backend_of, open_session
from aimass_edge.runtime.backends import CPU, NATIVE
from aimass_edge.runtime.building import NICENESS, built, open_engine
from aimass_edge.runtime.cuda import Cuda, open_cuda
from aimass_edge.runtime.engines import EngineCache, EngineKey
from aimass_edge.runtime.executing import EngineSession
from aimass_edge.runtime.tensorrt import build, key_of
from aimass_shared.claims import claimed
from aimass_shared.errors import (
    BadTensorError,
    DeadlineExceededError,
    ModelError,
    ModelLoadFailedError,
    NoActiveModelError,
)
from aimass_shared.manifest import TensorSpec

T = TypeVar("T")
AMPERE = "8.6"
PLACES, OUTPUTS = 4, 3
NEEDS_TENSORRT = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)
CUDART = r"""
#include <stdlib.h>
#include <string.h>
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : 7; return 0; }
int cudaMalloc(void **p, size_t n) { if (n > 1u << 30) return 2; *p = malloc(n); return 0; }
int cudaFree(void *p) { free(p); return 0; }
int cudaStreamCreate(void **s) { *s = malloc(1); return 0; }
int cudaStreamDestroy(void *s) { free(s); return 0; }
int cudaStreamSynchronize(void *s) { return s == NULL; }
int cudaMemcpyAsync(void *t, const void *f, size_t n, int k, void *s) {
  if (k < 1 || k > 2 || s == NULL) return 1;
  memcpy(t, f, n);
  return 0;
}
const char *cudaGetErrorString(int e) { return e == 2 ? "out of memory" : "invalid value"; }
"""


def saved(
    path: Path, nodes: list[onnx.NodeProto], rows: str | int = "n", cols: str | int = PLACES
) -> Path:
    weights = np.random.default_rng(0).normal(size=(PLACES, OUTPUTS)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, cols])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, OUTPUTS])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([[0], [0]]), "where"),
            numpy_helper.from_array(np.zeros((1, OUTPUTS), np.float32), "zeros"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    )
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    return saved(tmp_path / "model.onnx", nodes)


@pytest.fixture
def engines(tmp_path: Path) -> EngineSettings:
    return EngineSettings(folder=str(tmp_path / "engines"), kept=2, most_batch=8, workspace_mib=64)


@pytest.fixture
def cuda(tmp_path: Path) -> Cuda:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source, library = tmp_path / "cudart.c", tmp_path / "libcudart.so"
    source.write_text(CUDART)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return open_cuda((str(library),))


class Doubling:
    """An engine that gives twice its input, on the pointers that it was given."""

    def __init__(self) -> None:
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("x", "FP32", (-1, PLACES)),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("y", "FP32", (-1, PLACES)),)
        self.runs: list[int] = []
        self._shape: tuple[int, ...] = ()
        self._pointers: dict[str, int] = {}

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert name == "x"
        self._shape = shape

    def shape(self, name: str) -> tuple[int, ...]:
        assert name == "y"
        return self._shape

    def bind(self, name: str, pointer: int) -> None:
        self._pointers[name] = pointer

    def launch(self, stream: int) -> None:
        assert stream
        self.runs.append(self._shape[0])
        size = self._shape[0] * PLACES
        x, y = (_floats(self._pointers[name], size) for name in ("x", "y"))
        np.multiply(x, 2, out=y)


def _floats(pointer: int, size: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    array: np.ndarray[tuple[int], np.dtype[np.float32]] = np.ctypeslib.as_array(
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (size,)
    )
    return array


def rows(count: int) -> dict[str, "np.ndarray[tuple[int, int], np.dtype[np.float32]]"]:
    return {"x": np.arange(count * PLACES, dtype=np.float32).reshape(count, PLACES)}


@NEEDS_TENSORRT
def test_an_engine_is_built_for_any_batch(model: Path, engines: EngineSettings) -> None:
    assert len(build(model, engines, capability=AMPERE)) > 1000


@NEEDS_TENSORRT
def test_a_refused_operator_is_named(tmp_path: Path, engines: EngineSettings) -> None:
    scatter = helper.make_node(
        "ScatterND", ["zeros", "where", "h"], ["y"], name="add_edges", reduction="add"
    )
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), scatter]
    path = saved(tmp_path / "graph.onnx", nodes, rows=2)
    with pytest.raises(ModelLoadFailedError, match=r"ScatterND \(add_edges\).*reduction"):
        build(path, engines, capability=AMPERE)


@NEEDS_TENSORRT
def test_an_axis_that_is_open_behind_the_batch_is_named(
    tmp_path: Path, engines: EngineSettings
) -> None:
    node = helper.make_node("ReduceMax", ["x"], ["y"], keepdims=1)
    path = saved(tmp_path / "open.onnx", [node], cols="length")
    with pytest.raises(ModelLoadFailedError, match=r"x FP32\[\?,\?\] has an open one"):
        build(path, engines, capability=AMPERE)


@NEEDS_TENSORRT
@pytest.mark.parametrize("raw", [b"", b"no model at all", bytes(range(256))])
def test_what_is_no_model_is_refused(tmp_path: Path, raw: bytes, engines: EngineSettings) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(raw)
    with pytest.raises(ModelLoadFailedError, match=r"bad\.onnx"):
        build(path, engines, capability=AMPERE)


@NEEDS_TENSORRT
def test_a_capability_that_the_package_does_not_build_for_is_named(
    model: Path, engines: EngineSettings
) -> None:
    with pytest.raises(ModelLoadFailedError, match="no engines for SM87"):
        build(model, engines, capability="8.7")


@NEEDS_TENSORRT
def test_an_engine_is_built_once_and_a_damaged_one_again(
    model: Path, engines: EngineSettings
) -> None:
    key = key_of(model, engines, capability=AMPERE)
    first = built(model, engines, key)
    file = Path(engines.folder) / f"{key.name}.engine"
    written = file.stat().st_ino
    assert built(model.with_name("gone.onnx"), engines, key) == first  # not even looked for
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert len(built(model, engines, key)) == len(first)
    assert file.stat().st_ino != written
    assert key.formats == ("fp32",)


@NEEDS_TENSORRT
def test_a_refusal_and_a_deadline_come_out_of_the_child(
    tmp_path: Path, model: Path, engines: EngineSettings
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"no model")
    key = key_of(model, engines, capability=AMPERE)
    with pytest.raises(ModelLoadFailedError, match=r"other\.onnx"):
        built(other, engines, key)
    short = msgspec.structs.replace(engines, deadline_s=0.05)
    with pytest.raises(DeadlineExceededError, match="deadline_s"):
        built(model, short, key)


@NEEDS_TENSORRT
def test_the_child_ends_with_its_parent(model: Path, engines: EngineSettings) -> None:
    lock = EngineCache(Path(engines.folder), 1).lock
    words = [str(model), "--engines", msgspec.json.encode(engines).decode(), "--capability", AMPERE]
    start = "import subprocess, sys; subprocess.run([sys.executable, '-m', *sys.argv[1:]])"
    command = [sys.executable, "-c", start, "aimass_edge.runtime.building", *words]
    nicer = min(19, os.nice(0) + NICENESS)
    with claimed(lock, otherwise="nobody else is here"):  # so it waits, and does not build
        parent = subprocess.Popen(command)
        child = _wait_for(lambda: next(iter(psutil.Process(parent.pid).children()), None))
        _wait_for(lambda: child.nice() >= nicer)  # its last step before it waits for the lock
        parent.kill()
        parent.wait(10)
        _wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def _wait_for(find: Callable[[], T | None]) -> T:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = find()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come")


def key(number: int) -> EngineKey:
    return EngineKey(
        model=str(number),
        formats=("fp32",),
        package="tensorrt",
        version="10.3",
        capability="8.7",
        most_batch=8,
        workspace_mib=64,
    )


def test_the_engine_that_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines", 2)
    for number in (1, 2):
        cache.keep(key(number), b"engine %d" % number)
        os.utime(tmp_path / "engines" / f"{key(number).name}.engine", (number, number))
    assert cache.find(key(1)) == b"engine 1"
    cache.keep(key(3), b"engine 3")
    assert [cache.find(key(number)) for number in (1, 2, 3)] == [b"engine 1", None, b"engine 3"]


def test_an_engine_of_another_version_or_gpu_is_another(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines", 2)
    cache.keep(key(1), b"engine")
    for changed in ({"version": "10.16"}, {"capability": "8.6"}, {"most_batch": 9}):
        assert cache.find(msgspec.structs.replace(key(1), **changed)) is None
    (tmp_path / "engines" / f"{key(2).name}.engine").write_bytes(
        (tmp_path / "engines" / f"{key(1).name}.engine").read_bytes()
    )
    assert cache.find(key(2)) is None


def test_a_run_passes_through_the_memory_of_the_device(cuda: Cuda) -> None:
    assert cuda.capability() == "8.7"
    engine = Doubling()
    session = EngineSession(engine, cuda, most_batch=4)
    for count in (1, 3, 11, 2):
        found = session.run(rows(count))["y"]
        np.testing.assert_array_equal(found, rows(count)["x"] * 2)
    assert engine.runs == [1, 3, 4, 4, 3, 2]
    assert session.waits
    with pytest.raises(BadTensorError, match="expect"):
        session.run({"x": np.zeros((1, PLACES + 1), np.float32)})
    session.close()
    session.close()
    with pytest.raises(NoActiveModelError):
        session.run(rows(1))


def test_what_is_of_all_windows_together_is_not_put_together_from_parts(cuda: Cuda) -> None:
    engine = Doubling()
    engine.outputs = (TensorSpec("y", "FP32", (PLACES,)),)
    session = EngineSession(engine, cuda, most_batch=4)
    with pytest.raises(BadTensorError, match=r"5 windows are too many.*most_batch"):
        session.run(rows(5))
    session.close()


def test_several_threads_do_not_meet_in_one_engine(cuda: Cuda) -> None:
    session = EngineSession(Doubling(), cuda, most_batch=4)
    wrong: list[int] = []

    def ask(count: int) -> None:
        answers = [session.run(rows(count))["y"] for _ in range(50)]
        wrong.extend(count for y in answers if not np.array_equal(y, rows(count)["x"] * 2))

    threads = [threading.Thread(target=ask, args=(count,)) for count in (1, 2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_cuda_refuses_is_told(cuda: Cuda) -> None:
    with pytest.raises(ModelError, match="cudaMalloc failed with CUDA error 2: out of memory"):
        cuda.allocate(1 << 31)


def test_without_a_gpu_it_says_what_to_install(model: Path, engines: EngineSettings) -> None:
    with pytest.raises(ModelLoadFailedError, match="install the CUDA runtime"):
        open_cuda(("libnone.so",))
    with pytest.raises(ModelLoadFailedError, match="CUDA"):
        open_engine(model, engines)


def test_a_board_without_tensorrt_falls_back_and_says_why(model: Path) -> None:
    names = (NATIVE, "TensorrtExecutionProvider", "CUDAExecutionProvider", CPU)
    board = BoardSettings(providers=names)
    backend = backend_of(board)
    assert backend.provider == CPU
    assert list(backend.passed) == list(names[:-1])
    why = backend.passed[NATIVE]  # no GPU, or not even the package
    assert "CUDA" in why or "install TensorRT" in why
    assert NATIVE in backend.told()
    assert backend.precisions == ("int8", "int8-dyn", "fp32")
    assert not backend.is_tensorrt
    session = open_session(model, board)
    assert session.provider == CPU
    session.close()
