"""Building engines with TensorRT-RTX, and finding the operator that it does not build.

Runs in a process of its own (see `engines`): a network that TensorRT cannot take may end it. Only
onnx and tensorrt_rtx are needed, no GPU.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import onnx
import tensorrt_rtx as rtx

from aimass_cloud.slicing.engines import UNKNOWN, Trial, refused
from aimass_cloud.slicing.wiring import taken
from aimass_shared.slices import BUILDS

ARCHITECTURES = ("SM80", "SM86", "SM89", "SM120", "SM121")
"""One engine for all of them: NVIDIA Ampere, Ada, Blackwell, GB10. Turing (SM75) has no products of
matrices in single precision here, and Jetson's are not offered: a Jetson builds its own."""
FREE_SIZE = 64
"""Of an axis that may have any size and is not the samples'."""
LONGEST = 240
SEARCHED_BYTES = 64 << 20
"""Of a file in which the operator to blame is looked for by building parts of it."""
FUNCTION = re.compile(r"^(?:import|check)(\w+)$")
EXACT = re.compile(r"'[^']*'|\d+")
WRAPPED = re.compile(r"^.*?Error Code \d+: [\w ]+\((.*)\)$", re.DOTALL)
PLACES = re.compile(r"\s*In \S+ at /.*$|\[\w+\.(?:h|cpp):\d+: \w+\]\s*", re.DOTALL)


class _Log(rtx.ILogger):  # type: ignore[misc]  # tensorrt_rtx has no types
    """Keeps what TensorRT says went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: rtx.ILogger.Severity, message: str) -> None:
        """Called by TensorRT."""
        if severity in (rtx.ILogger.Severity.ERROR, rtx.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message)


class Building:
    """Builds engines of ONNX files: one each, for all architectures and sizes of a batch."""

    def __init__(self, most_batch: int, sizes: Mapping[str, int]) -> None:
        """Take the largest batch, and sizes of other axes by their names."""
        self._most_batch, self._sizes = most_batch, sizes

    def trials(self, path: Path, seconds: float) -> Iterator[Trial]:
        """What comes of a file: at once, then better if the operator to blame can be found."""
        started = time.perf_counter()
        trial, reason = self._tried(path, started)
        yield trial
        if not reason:
            return
        left = seconds - (time.perf_counter() - started)
        operator = self._operator(path, reason, left)
        if operator:
            yield msgspec.structs.replace(trial, verdict=refused(operator, told(reason)))

    def _tried(self, source: Path | bytes, started: float) -> tuple[Trial, str]:
        """What comes of a model, and why it was parsed and not built, as TensorRT says it."""
        log = _Log()
        builder = rtx.Builder(log)
        network = builder.create_network(0)
        parser = rtx.OnnxParser(network, log)
        if isinstance(source, bytes):
            parsed = parser.parse(source)
        else:  # finds weights beside the file
            parsed = parser.parse_from_file(str(source))
        if not parsed:
            return _trial(refused(*_complaint(parser, log)), started), ""
        engine = self._built(builder, network)
        if engine is not None:
            return _trial(BUILDS, started, int(engine.nbytes)), ""
        reason = log.errors[-1] if log.errors else "no engine, and no reason given"
        return _trial(refused(UNKNOWN, told(reason)), started), reason

    def _built(
        self, builder: rtx.Builder, network: rtx.INetworkDefinition
    ) -> rtx.IHostMemory | None:
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        inputs = [network.get_input(number) for number in range(network.num_inputs)]
        batches = {tensor.get_dimension_name(0) for tensor in inputs if -1 in tensor.shape[:1]}
        for tensor in inputs:
            few, many = self._shape(tensor, batches, 1), self._shape(tensor, batches)
            if tensor.is_shape_tensor:  # how long an axis is, or an index: any small number does
                ones = (1,) * tensor.shape[0] if len(tensor.shape) else (1,)
                profile.set_shape_input(tensor.name, ones, ones, ones)
            else:
                profile.set_shape(tensor.name, few, few, many)
        config.add_optimization_profile(profile)
        targets = _targets()
        config.num_compute_capabilities = len(targets)
        for number, name in enumerate(targets):
            config.set_compute_capability(getattr(rtx.ComputeCapability, name), number)
        return builder.build_serialized_network(network, config)

    def _shape(
        self, tensor: rtx.ITensor, batches: set[str], batch: int | None = None
    ) -> tuple[int, ...]:
        """The shape of an input for a batch; the largest without one."""
        sizes = []
        for axis, size in enumerate(tensor.shape):
            name = tensor.get_dimension_name(axis)
            free = self._sizes.get(name, FREE_SIZE)
            if name in batches and name not in self._sizes:
                free = batch or self._most_batch
            sizes.append(free if size < 0 else size)
        return tuple(sizes)

    def _operator(self, path: Path, reason: str, seconds: float) -> str:
        """The operator to blame for a network that is not built; "" if it cannot be told."""
        if path.stat().st_size > SEARCHED_BYTES:
            return ""
        model = onnx.load_model(path, load_external_data=False)
        if operator := named_in(reason, model.graph.node):
            return operator
        if any(tensor.external_data for tensor in model.graph.initializer):
            return ""
        return self._blamed(model, reason, time.perf_counter() + seconds / 2)

    def _blamed(self, model: onnx.ModelProto, reason: str, until: float) -> str:
        """The operator without which the beginning of the graph builds, found by halving.

        A part that fails with the same words, but for names and numbers, holds it. One that fails
        otherwise only ends where TensorRT cannot end.
        """
        model = onnx.shape_inference.infer_shapes(model)
        nodes, wanted = model.graph.node, EXACT.sub("", reason)
        fine, broken = 0, len(nodes)
        while broken - fine > 1:
            if time.perf_counter() > until:
                return ""
            middle = (fine + broken) // 2
            part = beginning(model, middle).SerializeToString()
            _, found = self._tried(part, time.perf_counter())
            if EXACT.sub("", found) == wanted:
                broken = middle
            else:
                fine = middle
        return str(nodes[fine].op_type)


def beginning(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """The first nodes of a model with known types; its outputs are what the others take of them."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    del graph.node[count:], graph.value_info[:], graph.output[:]
    changing = {value.name for value in graph.input}
    changing -= {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if changing.intersection(taken(node)):
            changing.update(node.output)
    changing.intersection_update(name for node in graph.node for name in node.output)
    wanted = {name for node in model.graph.node[count:] for name in taken(node)}
    wanted |= {value.name for value in model.graph.output}
    known = (*model.graph.value_info, *model.graph.output)
    graph.output.extend(value for value in known if value.name in changing & wanted)
    return part


def named_in(reason: str, nodes: Sequence[onnx.NodeProto]) -> str:
    """The operator of the node that a message names; "" if it names none.

    TensorRT calls a node without a name after its first output.
    """
    words = set(re.findall(r"[^\s'\"()\[\]^{},;]+", reason))
    words |= {word.rstrip(":.") for word in words}
    for node in nodes:
        if (node.name or f"node_of_{node.output[0]}") in words:
            return str(node.op_type)
    return ""


def told(reason: str) -> str:
    """What a message of TensorRT's says, without its own places and error codes."""
    wrapped = WRAPPED.match(reason)
    line = " ".join(PLACES.sub("", wrapped.group(1) if wrapped else reason).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _complaint(parser: rtx.OnnxParser, log: _Log) -> tuple[str, str]:
    """The operator that the parser refuses, and why."""
    if not parser.num_errors:
        return UNKNOWN, told(log.errors[-1]) if log.errors else "this is no ONNX file"
    error = parser.get_error(0)
    function = FUNCTION.match(error.func())
    operator = error.node_operator() or (function.group(1) if function else UNKNOWN)
    words = error.desc().partition("Assertion failed: ")[2] or error.desc()
    # A condition of its source with words after it, or with words in quotes, or alone.
    quoted = re.search(r'&& "(.+)"', words)
    reason = quoted.group(1) if quoted else words.partition(": ")[2] or words
    return operator, told("not supported" if reason == "false" else reason)


def _targets() -> list[str]:
    """Architectures that this version knows."""
    return [name for name in ARCHITECTURES if hasattr(rtx.ComputeCapability, name)]


def _trial(verdict: str, started: float, size: int = 0) -> Trial:
    seconds = round(time.perf_counter() - started, 3)
    return Trial(verdict, size, seconds, tuple(_targets()), str(rtx.__version__))
