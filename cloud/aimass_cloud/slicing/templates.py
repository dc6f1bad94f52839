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

from aimass_cloud.models.deployed import OUTPUTS, Deployed, deployed, weights_of
from aimass_cloud.models.trained import TrainedModel

OPSET = 20
BATCH = 32
FORMAT = 1

Tensors = dict[str, Tensor]
Kind = Literal["forward", "step"]


class Templates:
    """The templates of one size of model, kept in folders `templates` of some directories."""

    def __init__(self, model: TrainedModel, *directories: Path) -> None:
        """Take any model of the size. A template that one directory has is kept in all of them."""
        self._model = model
        self._folders = [directory / "templates" for directory in directories]
        self._key = _key(model)

    def forward(self, width: float) -> onnx.ModelProto:
        """The graph from `values` and `mask` to the outputs, any number of windows at once."""
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
    """A model with its arrays as arguments, in the order of their names."""

    def __init__(self, model: TrainedModel, weights: Tensors) -> None:
        super().__init__()
        self._whole = deployed(model)
        self._weights, self._constants = list(weights), list(constants_of(self._whole))

    def forward(
        self, values: Tensor, mask: Tensor, gate: Tensor, arrays: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = dict(zip(self._weights, arrays, strict=False))
        constants = dict(zip(self._constants, arrays[len(weights) :], strict=True))
        arguments = (values, mask, weights, gate)
        outputs: tuple[Tensor, Tensor, Tensor] = functional_call(self._whole, constants, arguments)
        return outputs


class _Loss(nn.Module):
    """The loss of a model as a module, so that its constants can be arguments."""

    def __init__(self, whole: Deployed) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, values: Tensor, mask: Tensor, weight: Tensor, weights: Tensors) -> Tensor:
        return self.whole.loss(values, mask, weight=weight, weights=weights)


def constants_of(whole: Deployed) -> Tensors:
    """The constants of a model by the name that they have in a template."""
    return dict(whole.named_buffers())


def _forward(model: TrainedModel, width: float) -> onnx.ModelProto:
    weights, whole = weights_of(model, width), deployed(model)
    constants, contract = constants_of(whole), model.info.contract
    # Two windows: torch takes a batch of one for a constant.
    values = torch.zeros(2, contract.window, len(contract.sensors))
    gate = torch.zeros(contract.horizon, len(contract.sensors))
    arrays = [*weights.values(), *constants.values()]
    batch = {0: torch.export.Dim("batch")}
    return _exported(
        _Forward(model, weights).eval(),
        (values, torch.ones_like(values), gate, arrays),
        names=(["values", "mask", "gate", *weights, *constants], list(OUTPUTS)),
        dynamic_shapes=(batch, batch, None, [None] * len(arrays)),
    )


def _step(model: TrainedModel, width: float) -> onnx.ModelProto:
    weights, whole = weights_of(model, width), deployed(model)
    constants, contract = constants_of(whole), model.info.contract
    loss = _Loss(whole)
    prefixed = [f"whole.{name}" for name in constants]

    def step(values: Tensor, mask: Tensor, weight: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(prefixed, arrays[len(weights) :], strict=True))

        def error(parameters: Tensors) -> Tensor:
            result: Tensor = functional_call(loss, given, (values, mask, weight, parameters))
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
    contract = model.info.contract
    sizes = (FORMAT, str(torch.__version__), model.info.config, contract.window, contract.horizon)
    return hashlib.sha256(msgspec.json.encode((sizes, shapes), order="sorted")).hexdigest()[:16]


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
