"""ONNX graphs without a number of any model in them: every array is an input.

A template depends on sizes alone, so it is exported once for each width and kept; a slice is a
template with the arrays of a model put in, which takes no exporter. That is why the slices of a
descendant, or of a second model of the same sizes, are ready in a moment. Needs torch.
"""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import onnx
import torch
from torch import Tensor, nn
from torch._decomp import core_aten_decompositions
from torch.func import functional_call, grad_and_value
from torch.fx.experimental.proxy_tensor import make_fx

from aimass_cloud import recipes
from aimass_cloud.models.network import LocalLoss, Network, Tensors, called, tensors
from aimass_cloud.models.trained import TrainedModel

OPSET = 20
BATCH = 32
FORMAT = 2

Kind = Literal["forward", "step"]


class Templates:
    """The templates of one size of model, kept in folders `templates` of some directories."""

    def __init__(self, model: TrainedModel, *directories: Path) -> None:
        """Take any model of the size. A template that one directory has is kept in all of them."""
        self._model = model
        self._folders = [directory / "templates" for directory in directories]
        self._key = _key(model)

    def forward(self, width: float) -> onnx.ModelProto:
        """The graph from inputs to outputs, any number of samples at once."""
        return self._kept("forward", width)

    def step(self, width: float) -> onnx.ModelProto:
        """The graph from a batch of 32 windows with targets to the loss and its gradients."""
        return self._kept("step", width)

    def lacks(self, kind: Kind, widths: Sequence[float]) -> bool:
        """Whether a template of that kind would have to be exported."""
        return any(self._found(self._name(kind, width)) is None for width in widths)

    def _kept(self, kind: Kind, width: float) -> onnx.ModelProto:
        name = self._name(kind, width)
        content = self._found(name)
        if content is None:
            export = {"forward": _forward, "step": _step}[kind]
            with _quietly():
                content = _bare(export(self._model, width)).SerializeToString()
        for folder in self._folders:
            _keep(folder / name, content)
        return onnx.load_model_from_string(content)

    def _name(self, kind: Kind, width: float) -> str:
        return f"{kind}-w{width:.2f}-{self._key}.onnx"

    def _found(self, name: str) -> bytes | None:
        paths = (folder / name for folder in self._folders)
        return next((path.read_bytes() for path in paths if path.is_file()), None)


def _keep(path: Path, content: bytes) -> None:
    """Write a file that is not there yet; another process may do the same at the same time."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(f".{os.getpid()}.tmp")
        half.write_bytes(content)
        half.replace(path)


class _Forward(nn.Module):
    """A network with its arrays as arguments, in the order of their names."""

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        super().__init__()
        self._network, self._names = network, tuple(names)

    def forward(self, inputs: list[Tensor], arrays: list[Tensor]) -> tuple[Tensor, ...]:
        return called(self._network, dict(zip(self._names, arrays, strict=True)), inputs)


def network_of(model: TrainedModel) -> Network:
    """The modules of a model, ready to be called, without dropout."""
    return recipes.find(model.info.recipe).module(model.info, model.constants).eval()


def learns_locally(model: TrainedModel) -> bool:
    """Whether devices can train the model on what they see."""
    return model.info.contract.telemetry and network_of(model).LEARNS_LOCALLY


def _forward(model: TrainedModel, width: float) -> onnx.ModelProto:
    arrays, contract = tensors(model.at(width)), model.info.contract
    names = [spec.name for spec in contract.inputs]
    # Two samples: torch takes a batch of one for a constant.
    inputs = [torch.from_numpy(model.samples.selftest[name][:2]) for name in names]
    batch = {0: torch.export.Dim("batch")}
    return _exported(
        _Forward(network_of(model), list(arrays)).eval(),
        (inputs, list(arrays.values())),
        names=([*names, *arrays], [spec.name for spec in contract.outputs]),
        dynamic_shapes=([batch] * len(inputs), [None] * len(arrays)),
    )


def _step(model: TrainedModel, width: float) -> onnx.ModelProto:
    arrays, contract = tensors(model.at(width)), model.info.contract
    weights = {name: arrays[name] for name in model.weights}
    constants = {name: array for name, array in arrays.items() if name not in weights}
    loss = LocalLoss(network_of(model))

    def step(values: Tensor, mask: Tensor, weight: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(constants, arrays[len(weights) :], strict=True))

        def error(parameters: Tensors) -> Tensor:
            named = {f"network.{name}": array for name, array in (parameters | given).items()}
            result: Tensor = functional_call(loss, named, (values, mask, weight))
            return result

        start = dict(zip(weights, arrays, strict=False))
        gradients, value = grad_and_value(error)(start)
        return (value, *(gradients[name] for name in weights))

    rows = contract.window + contract.horizon
    values = torch.zeros(BATCH, rows, len(contract.sensors))
    arguments = (
        *(values, torch.ones_like(values), torch.ones(BATCH)),
        *(*weights.values(), *constants.values()),
    )
    table: dict[Any, Callable[..., Any]] = {**core_aten_decompositions().materialize()}
    traced = make_fx(step, decomposition_table=table)(*arguments)
    inputs = ["values", "mask", "weight", *weights, *constants]
    return _exported(
        traced, arguments, names=(inputs, ["loss", *(f"grad.{name}" for name in weights)])
    )


def _exported(
    module: nn.Module,
    arguments: tuple[object, ...],
    *,
    names: tuple[list[str], list[str]],
    dynamic_shapes: tuple[object, ...] | None = None,
) -> onnx.ModelProto:
    # Not optimised here: with arrays as inputs there is little to fold yet, and it takes a second.
    program = torch.onnx.export(
        module,
        arguments,
        input_names=names[0],
        output_names=names[1],
        opset_version=OPSET,
        dynamic_shapes=dynamic_shapes,
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise TypeError("torch exported to a file instead of a program")
    return program.model_proto


def _bare(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes (stack traces with paths, half of the file)."""
    for node in graph.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.metadata_props[:]
    return graph


def _key(model: TrainedModel) -> str:
    """Digest of all that a template depends on."""
    shapes = {name: array.shape for name, array in {**model.weights, **model.constants}.items()}
    info, selftest = model.info, model.samples.selftest
    inputs = {name: (array.shape[1:], str(array.dtype)) for name, array in selftest.items()}
    sizes = (FORMAT, str(torch.__version__), info.recipe, info.config, info.contract.outputs)
    rows = (info.contract.window, info.contract.horizon)
    return hashlib.sha256(
        msgspec.json.encode((sizes, rows, inputs, shapes), order="sorted")
    ).hexdigest()[:16]


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter from telling that torchvision is missing and what torch will drop."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
