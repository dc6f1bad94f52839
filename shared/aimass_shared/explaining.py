"""Which parts of an input made a prediction: leave each out, and see how the answer changes.

Occlusion (Zeiler and Fergus, ECCV 2014) needs nothing but the model as it is served, so devices and
the coordinator answer alike, for every kind of input. Its cost is one more sample in the batch for
each part, and is said beside the answer. Numpy only.

A request asks with the parameter `explain` = "occlusion". The answer gains two outputs:
`explanation` `[parts]`, by how much each part raised the explained number, and `explanation_of`
`[parts]`, the names of the parts: a sensor (its number from 0, where the contract names none), a
word, an item, or a patch of an image (`row,column`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import BadTensorError
from aimass_shared.manifest import Contract

PARAMETER = "explain"
OCCLUSION = "occlusion"
EXPLANATION, NAMES = "explanation", "explanation_of"
PATCHES = 8
MOST_PARTS = 512
IMAGE_AXES = 4

Array = NDArray[Any]
Arrays = dict[str, Array]


class Occluded(NamedTuple):
    """An input with each of its parts left out once.

    Attributes:
        inputs: the whole input first, then one sample for each part, `[1 + parts, ...]`.
        names: of the parts.
    """

    inputs: Arrays
    names: tuple[str, ...]


def method_of(parameters: Mapping[str, object]) -> str:
    """How a request wants its answer explained, "" if it does not.

    Raises:
        BadTensorError: the parameter is no text.
    """
    method = parameters.get(PARAMETER, "")
    if not isinstance(method, str):
        raise BadTensorError(f"parameter {PARAMETER} is {method!r}: give the name of a method")
    return method


def occluded(contract: Contract, inputs: Mapping[str, Array]) -> Occluded:
    """One sample, and the same with each part left out.

    Raises:
        BadTensorError: there is more than one sample, the input has too many parts, or none.
    """
    if any(len(array) != 1 for array in inputs.values()):
        raise BadTensorError(f"{PARAMETER} explains one sample at a time: send one")
    if inputs.keys() == {"values", "mask"}:
        found = _sensors(contract, inputs)
    elif contract.inputs[0].datatype == "BYTES":
        found = _words(inputs)
    else:
        found = _patches(inputs)
    if not 1 <= len(found.names) <= MOST_PARTS:
        raise BadTensorError(
            f"the input has {len(found.names)} parts: 1 to {MOST_PARTS} can be explained"
        )
    return found


def explained(contract: Contract, outputs: Mapping[str, Array]) -> NDArray[np.float32]:
    """By how much each part raised the explained number, from the outputs for `Occluded.inputs`.

    The number is the alarm's score of telemetry, the probability of the label that the whole input
    got, the probability of a match, or the score of the first item of a ranking.
    """
    numbers = _numbers(contract, outputs)
    return np.asarray(numbers[0] - numbers[1:], np.float32)


def first_of(outputs: Mapping[str, Array]) -> Arrays:
    """The outputs for the whole input alone."""
    return {name: array[:1] for name, array in outputs.items()}


def _numbers(contract: Contract, outputs: Mapping[str, Array]) -> NDArray[np.float64]:
    """The explained number of each sample `[n]`."""
    name = contract.alarm.score if contract.alarm else ""
    if not name:
        floats = [spec.name for spec in contract.outputs if spec.datatype.startswith("FP")]
        name = floats[0]
    array = np.asarray(outputs[name], np.float64).reshape(len(outputs[name]), -1)
    column = int(array[0].argmax()) if contract.task == "classify" else 0
    return np.asarray(array[:, column])


def _sensors(contract: Contract, inputs: Mapping[str, Array]) -> Occluded:
    count = inputs["mask"].shape[-1]
    names = [sensor.name for sensor in contract.sensors] or map(str, range(count))
    repeated = {name: np.repeat(array, 1 + count, axis=0) for name, array in inputs.items()}
    for number in range(count):
        repeated["mask"][1 + number, :, number] = 0.0
    return Occluded(repeated, tuple(names))


def _words(inputs: Mapping[str, Array]) -> Occluded:
    texts = {name: _text(array.reshape(-1)[0]) for name, array in inputs.items()}
    places = [(name, at) for name, text in texts.items() for at in range(len(text.split()))]
    rows: dict[str, list[str]] = {name: [text] for name, text in texts.items()}
    for name, at in places:
        words = texts[name].split()
        without = " ".join([*words[:at], *words[at + 1 :]])
        for other, text in texts.items():
            rows[other].append(without if other == name else text)
    names = tuple(texts[name].split()[at] for name, at in places)
    return Occluded({name: np.array(text, object) for name, text in rows.items()}, names)


def _patches(inputs: Mapping[str, Array]) -> Occluded:
    name, image = next(iter(inputs.items()))
    if len(inputs) != 1 or image.ndim != IMAGE_AXES:
        raise BadTensorError("only telemetry, texts and images can be explained by occlusion")
    down, across = (np.array_split(np.arange(size), min(PATCHES, size)) for size in image.shape[2:])
    places = [(row, column) for row in range(len(down)) for column in range(len(across))]
    repeated = np.repeat(image, 1 + len(places), axis=0)
    mean = image.mean(axis=(2, 3), keepdims=True)[0]
    for number, (row, column) in enumerate(places):
        repeated[1 + number][:, down[row][:, None], across[column]] = mean
    return Occluded({name: repeated}, tuple(f"{row},{column}" for row, column in places))


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
