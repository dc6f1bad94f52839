"""Graphs that are not ours: kinds that people bring, and real ones of the ONNX package."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper
from tests.graphs import GRAPHS, resnet, with_files

from aimass_cloud.slicing.cuts import Whole, read, whole

NETWORKS: Final = ("squeezenet", "shufflenet")
"""Architectures of the ONNX package, whose weights are left out: ours are random."""
FAMILIES: Final = (
    "affine_grid_2d",
    "attention_3d",
    "attention_4d_attn_mask",
    "attention_local_window",
    "causal_conv_with_state",
    "center_crop_pad",
    "dynamicquantizelinear",
    "flexattention",
    "gelu_tanh",
    "hammingwindow",
    "layer_normalization_4d",
    "linear_attention",
    "nllloss_NCd1",
    "rms_normalization_3d",
    "rotary_embedding_3d",
    "sce_mean_weight",
    "spacetodepth",
)
"""Operators of the standard that have a graph of simpler ones: the first test of each is taken."""
FEWEST: Final = 8
SIZES: Final = {"batch": 2, "sequence": 5}


@dataclass(frozen=True)
class Graph:
    """A graph, with inputs to try it on where normal numbers will not do."""

    name: str
    whole: Whole
    inputs: dict[str, Any] | None = None


def built(folder: Path) -> Iterator[Graph]:
    """Graphs of all kinds, made by the builders of the tests."""
    for name, make in GRAPHS.items():
        yield Graph(name, whole(make()))
    path = with_files(resnet(), folder / "resnet.onnx")
    yield Graph("external data", read(path))


def networks(*, quick: bool) -> Iterator[Graph]:
    """Real architectures for pictures of 224 x 224."""
    folder = Path(onnx.backend.test.__path__[0]) / "data" / "light"
    for name in NETWORKS[:1] if quick else NETWORKS:
        model = onnx.load_model(folder / f"light_{name}.onnx")
        yield Graph(f"onnx: {name}", whole(_with_weights(model)))


def decomposed(*, quick: bool) -> Iterator[Graph]:
    """Operators of the standard as graphs, on the inputs of the standard's own tests."""
    from onnx.backend.test.case.node import collect_testcases  # noqa: PLC0415  it makes thousands

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    found: dict[str, Graph] = {}
    for case in cases:
        family = next((one for one in FAMILIES if case.name.startswith(f"test_{one}")), "")
        if family in found or case.model is None or not case.data_sets:
            continue
        if family and _is_graph(case.name, case.model):
            names = [value.name for value in case.model.graph.input]
            given = zip(names, case.data_sets[0][0], strict=False)
            inputs = {name: array for name, array in given if array is not None}
            found[family] = Graph(f"onnx: {family}", whole(case.model), inputs)
    yield from list(found.values())[:: 4 if quick else 1]


def _is_graph(name: str, model: onnx.ModelProto) -> bool:
    """Whether it is an operator in steps, in single precision."""
    return "_expanded" in name and "16" not in name and len(model.graph.node) >= FEWEST


def _with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Random weights instead of the constants that the package ships, so that outputs differ."""
    random = np.random.default_rng(0)
    model.ir_version = 4  # before it, stored tensors had to be inputs too
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [one for one in model.graph.node if one.op_type == "ConstantOfShape"]:
        shape = numpy_helper.to_array(stored[node.input[0]]).tolist()
        model.graph.node.remove(node)
        model.graph.initializer.append(
            numpy_helper.from_array(_drawn(random, shape), node.output[0])
        )
    return model


def _drawn(random: np.random.Generator, shape: list[int]) -> Any:  # noqa: ANN401  of floats
    if len(shape) < 2:  # noqa: PLR2004  scale, mean or variance of a channel: all near one
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = (2 / np.prod(shape[1:])) ** 0.5
    return (scale * random.standard_normal(shape)).astype(np.float32)
