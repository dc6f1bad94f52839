"""Slices of a forecaster of a user's own recordings: gaps, machines, listed neighbours, a band."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from tests.engines import engine_bytes

from aimass_cloud import recipes
from aimass_cloud.models import graph
from aimass_cloud.models.shrinkage import LAGS, RIDGE, WEIGHT
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.slicing import make_slices
from aimass_cloud.training import train
from aimass_shared import fleet
from aimass_shared.manifest import SliceArtifact
from aimass_shared.slices import SliceSpec

SENSORS = 5
SPECS = (SliceSpec(1.0, "fp32"), SliceSpec(1.0, "int8"), SliceSpec(1.0, "int8-trt"))
OPTIONS = {
    "hidden": 8,
    "steps": 1,
    "neighbours": 2,
    "window": 8,
    "horizon": 2,
    "decoder": "loop",
    "quantiles": True,
    "base": "direct",
}
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module", autouse=True)
def listed() -> Iterator[None]:
    """Relations of few nodes are listed, as those of many are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "MOST_DENSE", 3)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("plant")
    random = np.random.default_rng(0)
    rows = np.cumsum(random.normal(size=(600, SENSORS)), axis=0) * 0.1 + random.normal(size=SENSORS)
    rows[random.random(rows.shape) < 0.05] = np.nan
    names = [f"s{number}" for number in range(SENSORS)]
    lines = [",".join("" if np.isnan(cell) else f"{cell:.4f}" for cell in row) for row in rows]
    (folder / "train.csv").write_text("\n".join([",".join(names), *lines]))
    told = [f"{name},bar,{'ab'[at % 2]},m{at // 3}" for at, name in enumerate(names)]
    (folder / "sensors.csv").write_text("\n".join(["name,unit,kind,entity", *told]))
    (folder / "graph.csv").write_text("source,target\ns0,s1\ns1,s4\n")
    run = RunSettings(data=str(folder), steps=40, check=20, widths=(1.0,), options=OPTIONS)
    return train("sensor-graph", run)


@pytest.fixture(scope="module")
def slices(
    model: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SliceArtifact]:
    made = make_slices(model, tmp_path_factory.mktemp("slices"), specs=SPECS)
    return {artifact.spec.name: artifact for artifact in made}


def _path(artifact: SliceArtifact, role: str = "model") -> str:
    return next(path for name, path in artifact.files if name == role)


def _outputs(path: str, feeds: Arrays) -> Arrays:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_relations_are_listed(model: TrainedModel) -> None:
    shapes = {name: array.shape for name, array in model.constants.items() if "graph." in name}
    assert shapes["graph.inward.index"] == shapes["graph.inward.weight"] == (SENSORS + 2, 2)
    assert {name.split(".")[1] for name in shapes} == set(graph.RELATIONS)


def test_every_slice_carries_the_fleet_that_a_device_shrinks_to(
    model: TrainedModel, slices: dict[str, SliceArtifact]
) -> None:
    sensors = tuple(sensor.name for sensor in model.info.contract.sensors)
    for artifact in slices.values():
        path = Path(_path(artifact, "fleet"))
        found = fleet.unpack(path.read_bytes(), sensors)
        assert path.name == fleet.FILE
        assert (found.moments.lags, found.weight, found.ridge) == (LAGS, WEIGHT, RIDGE)
        assert SENSORS < found.moments.n < 600


@pytest.mark.parametrize("count", [1, 3])
def test_the_float_file_computes_what_torch_computes(
    model: TrainedModel, slices: dict[str, SliceArtifact], count: int
) -> None:
    part = model.samples.test
    feeds = {name: array[-count:] for name, array in part.inputs.items()}
    outputs = _outputs(_path(slices["w1.00-fp32"]), feeds)
    expected = outputs_of(recipes.find("sensor-graph"), model, part, width=1.0)
    assert outputs.keys() == expected.keys() > {"forecast", "lower", "upper", "score"}
    for name, array in outputs.items():
        assert np.allclose(array, expected[name][-count:], rtol=1e-4, atol=1e-4), name


def test_the_int8_file_forecasts_nearly_the_same(
    model: TrainedModel, slices: dict[str, SliceArtifact]
) -> None:
    part = model.samples.test
    outputs = _outputs(_path(slices["w1.00-int8"]), part.inputs)
    expected = outputs_of(recipes.find("sensor-graph"), model, part, width=1.0)
    for name in ("forecast", "lower", "upper"):
        assert np.abs((outputs[name] - expected[name]) / part.truth["scale"]).max() < 0.2


@pytest.mark.parametrize("name", ["w1.00-fp32", "w1.00-int8-trt"])
def test_tensorrt_builds_what_is_shipped(slices: dict[str, SliceArtifact], name: str) -> None:
    assert engine_bytes(Path(_path(slices[name]))) > 0
