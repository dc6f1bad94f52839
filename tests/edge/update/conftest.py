"""Releases of small made-up files, and a real model that proves itself."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aimass_edge.update.slots import Bundle, Installed, Slots, bundle_of
from aimass_shared.manifest import (
    AlarmRule,
    Contract,
    FileRef,
    Manifest,
    Role,
    Sensor,
    SliceEntry,
    TensorSpec,
    encode,
)
from aimass_shared.messages import ReleaseRef
from aimass_shared.slices import SliceCost, SliceSpec

Contents = dict[Role, bytes]
MakeBundle = Callable[..., tuple[Bundle, Contents]]
Install = Callable[[Slots, int], Installed]
WINDOW, SENSORS = 4, 2


def _make_bundle(
    number: int = 1,
    contents: Contents | None = None,
    tolerance: float = 1e-3,
    **more: Any,  # noqa: ANN401  of a slice
) -> tuple[Bundle, Contents]:
    bodies: Contents = contents or {
        "model": f"model {number} ".encode() * 20,
        "train": f"train {number} ".encode() * 10,
        "selftest": f"vectors {number} ".encode() * 5,
    }
    files = tuple(
        FileRef(role, f"{role}.bin", hashlib.sha256(body).hexdigest(), len(body))
        for role, body in bodies.items()
    )
    cost = SliceCost(model_bytes=100, memory_mib=10, reference_ms=1, val_error=0.5)
    entry = SliceEntry(SliceSpec(0.5, "int8"), cost, files, tolerance, **more)
    contract = Contract(
        model="tep-monitor",
        sensors=tuple(Sensor(name, "kPa", "continuous") for name in ("A", "B")),
        step_ms=1000,
        window=WINDOW,
        horizon=1,
        inputs=(TensorSpec("values", "FP32", (-1, WINDOW, SENSORS)),),
        outputs=(TensorSpec("score", "FP32", (-1,)),),
        alarm=AlarmRule("score", 1.0, "contribution"),
    )
    release = f"r{number}"
    manifest = Manifest(release, "tep-monitor", contract, (entry,), created=number)
    ref = ReleaseRef(release, f"stable/tep-monitor/{release}.json", entry.spec.name)
    return bundle_of(ref, encode(manifest)), bodies


def _put_parts(slots: Slots, contents: Contents) -> dict[Role, Path]:
    slots.prepare()
    parts: dict[Role, Path] = {}
    for role, body in contents.items():
        parts[role] = slots.incoming / f"{hashlib.sha256(body).hexdigest()}.part"
        slots.fs.append(parts[role], body)
        slots.fs.fsync(parts[role])
    return parts


def _install(slots: Slots, number: int) -> Installed:
    bundle, contents = _make_bundle(number)
    return slots.install(bundle, _put_parts(slots, contents))


@pytest.fixture
def make_bundle() -> MakeBundle:
    """Make the release with a number; the same number gives the same bytes."""
    return _make_bundle


@pytest.fixture
def put_parts() -> Callable[[Slots, Contents], dict[Role, Path]]:
    """Lay files into `incoming`, as downloads leave them."""
    return _put_parts


@pytest.fixture
def install() -> Install:
    """Install the release with a number."""
    return _install


@pytest.fixture
def real_contents(tmp_path: Path) -> Contents:
    """Files of a model that sums its window, and vectors that it passes."""
    shape: list[str | int | None] = ["batch", WINDOW, SENSORS]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["values", "mask"], ["measured"]),
            helper.make_node("ReduceSum", ["measured", "axes"], ["score"], keepdims=0),
        ],
        "sum",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("values", "mask")],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    values = np.random.default_rng(1).normal(size=(3, WINDOW, SENSORS)).astype(np.float32)
    vectors = {
        "in.values": values,
        "in.mask": np.ones_like(values),
        "out.score": values.sum((1, 2)),
    }
    path = tmp_path / "vectors.npz"
    np.savez(path, **vectors)
    return {"model": onnx.ModelProto.SerializeToString(model), "selftest": path.read_bytes()}
