"""Explanations of the full model over its own samples: complete, priced, and refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aimass_cloud.app.explanations import ExplainRequest, _explained
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.training import RunSettings, train
from aimass_shared.errors import BadTensorError, NotFoundError

RUN = RunSettings(steps=30, check=15, widths=(1.0,), options={"hidden": 8, "steps": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    train("sensor-graph", RUN).save(path)
    return path


def test_integrated_gradients_add_up_to_the_score(folder: Path) -> None:
    found = _explained(folder, ExplainRequest(method="integrated", sample=2))
    assert found.milliseconds > 0
    assert sum(share for _, share in found.parts) == pytest.approx(found.total, rel=0.02)
    assert np.shape(found.values["values"]) == (1, 16, 52)
    sizes = [abs(share) for _, share in found.parts]
    assert sizes == sorted(sizes, reverse=True)


def test_given_inputs_are_explained_like_the_models_own(folder: Path) -> None:
    own = TrainedModel.load(folder).samples.selftest
    inputs = {name: array[2:3].tolist() for name, array in own.items()}
    given = _explained(folder, ExplainRequest(inputs=inputs))
    taken = _explained(folder, ExplainRequest(sample=2))
    assert given.parts == taken.parts


def test_edges_of_the_graph_are_named(folder: Path, tmp_path: Path) -> None:
    model = TrainedModel.load(folder)
    # Held-back rows of this plant may choose to hear no relation: here all are heard.
    loud = {name: np.ones_like(model.constants[name]) for name in ("gate", "loudness")}
    replace(model, constants={**model.constants, **loud}).save(tmp_path)
    found = _explained(tmp_path, ExplainRequest(method="edges", sensor="XMEAS_09"))
    assert found.edges
    assert all(edge["weight"] > 0 for edge in found.edges)


def test_what_is_not_there_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="0 to 3"):
        _explained(folder, ExplainRequest(sample=4))
    with pytest.raises(BadTensorError, match="not those of the model"):
        _explained(folder, ExplainRequest(inputs={"values": [[1.0]]}))
    with pytest.raises(NotFoundError, match="level"):
        _explained(folder, ExplainRequest(output="level"))
