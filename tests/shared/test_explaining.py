"""Explanations by leaving out: the part that makes the answer is found, for every kind of input."""

import numpy as np
import pytest

from aimass_shared.errors import BadTensorError
from aimass_shared.explaining import (
    MOST_PARTS,
    Occluded,
    explained,
    first_of,
    method_of,
    occluded,
)
from aimass_shared.manifest import AlarmRule, Contract, Sensor, TensorSpec

SENSORS = tuple(Sensor(name, "%", "continuous") for name in "abc")
PLANT = Contract(
    model="m",
    inputs=(TensorSpec("values", "FP32", (-1, 4, 3)), TensorSpec("mask", "FP32", (-1, 4, 3))),
    outputs=(TensorSpec("forecast", "FP32", (-1, 2, 3)), TensorSpec("score", "FP32", (-1,))),
    sensors=SENSORS,
    window=4,
    horizon=2,
    alarm=AlarmRule(score="score", threshold=1.0, contribution="score"),
)
IMAGE = Contract(
    model="i",
    inputs=(TensorSpec("image", "FP32", (-1, 1, 16, 16)),),
    outputs=(TensorSpec("probabilities", "FP32", (-1, 2)), TensorSpec("label", "INT64", (-1,))),
    task="classify",
)
PAIR = Contract(
    model="t",
    inputs=(TensorSpec("a", "BYTES", (-1,)), TensorSpec("b", "BYTES", (-1,))),
    outputs=(TensorSpec("match", "FP32", (-1,)),),
    task="match",
)


def _parts(contract: Contract, found: Occluded, outputs: dict[str, np.ndarray]) -> dict[str, float]:
    return dict(zip(found.names, explained(contract, outputs).tolist(), strict=True))


def test_the_sensor_that_makes_the_score_is_found() -> None:
    values, mask = np.ones((1, 4, 3), np.float32), np.ones((1, 4, 3), np.float32)
    found = occluded(PLANT, {"values": values, "mask": mask})
    assert found.inputs["values"].shape == (4, 4, 3)
    weights = np.array([0.0, 5.0, 1.0])
    score = ((found.inputs["values"] * found.inputs["mask"]).mean(axis=1) * weights).sum(axis=1)
    outputs = {"forecast": np.zeros((4, 2, 3)), "score": score}
    assert _parts(PLANT, found, outputs) == {"a": 0.0, "b": 5.0, "c": 1.0}
    assert first_of(outputs)["score"].tolist() == [6.0]
    assert mask.all(), "the request's own tensors stay as they are"


def test_sensors_that_have_no_names_are_numbers() -> None:
    contract = Contract(model="d", inputs=PLANT.inputs, outputs=IMAGE.outputs, task="classify")
    values = np.ones((1, 4, 3), np.float32)
    assert occluded(contract, {"values": values, "mask": values}).names == ("0", "1", "2")


def test_the_patch_that_makes_the_label_is_found() -> None:
    image = np.zeros((1, 1, 16, 16), np.float32)
    image[0, 0, 4:6, 12:14] = 1.0
    found = occluded(IMAGE, {"image": image})
    assert found.inputs["image"].shape == (65, 1, 16, 16)
    bright = found.inputs["image"].max(axis=(1, 2, 3))
    probabilities = np.stack([1 - bright, bright], axis=1)
    parts = _parts(IMAGE, found, {"probabilities": probabilities, "label": bright > 0.5})
    assert max(parts, key=lambda name: parts[name]) == "2,6"
    assert sum(value > 0.1 for value in parts.values()) == 1


def test_the_word_that_makes_the_match_is_found() -> None:
    texts = {"a": np.array([b"the pump leaks"], object), "b": np.array(["a leak"], object)}
    found = occluded(PAIR, texts)
    assert found.names == ("the", "pump", "leaks", "a", "leak")
    pairs = list(zip(found.inputs["a"], found.inputs["b"], strict=True))
    match = np.array([float("leaks" in a.split() and "leak" in b.split()) for a, b in pairs])
    assert _parts(PAIR, found, {"match": match}) == {
        "the": 0.0,
        "pump": 0.0,
        "leaks": 1.0,
        "a": 0.0,
        "leak": 1.0,
    }


def test_many_samples_too_many_parts_and_none_are_refused() -> None:
    two = np.ones((2, 4, 3), np.float32)
    with pytest.raises(BadTensorError, match="one sample"):
        occluded(PLANT, {"values": two, "mask": two})
    long = np.array([" ".join("x" * (MOST_PARTS + 1))], object)
    with pytest.raises(BadTensorError, match="513 parts"):
        occluded(PAIR, {"a": long, "b": np.array([""], object)})
    with pytest.raises(BadTensorError, match="0 parts"):
        occluded(PAIR, {"a": np.array([""], object), "b": np.array([""], object)})
    vector = Contract(model="v", inputs=(TensorSpec("x", "FP32", (-1, 3)),), outputs=())
    with pytest.raises(BadTensorError, match="by occlusion"):
        occluded(vector, {"x": np.zeros((1, 3), np.float32)})


def test_a_request_says_how_or_nothing() -> None:
    assert method_of({}) == ""
    assert method_of({"explain": "occlusion"}) == "occlusion"
    with pytest.raises(BadTensorError, match="name of a method"):
        method_of({"explain": True})
