"""A graph as sets of nodes and tensors, each set the bits of one number.

Only what depends on an input and leads to an output is in it. What is left out and still needed
(constants, and what is worked out from them) belongs to every part that uses it.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

import onnx

from aimass_cloud.slicing.cuts.reading import subgraphs


class Dag:
    """Nodes in an order in which they can run, and the tensors between them.

    Attributes:
        nodes: those that an input changes and an output needs.
        constant: the other nodes that an output needs.
        names: of the tensors: inputs of the graph, then what the nodes give.
        inputs: the set of the graph's inputs.
        everything: the set of all nodes.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Take a graph whose nodes are sorted, as ONNX demands."""
        given = [value.name for value in real_inputs(graph)]
        self.nodes, self.constant = _changing(_needed(graph), set(given))
        made = [name for node in self.nodes for name in node.output if name]
        self.names = [*given, *made]
        self._bits = {name: 1 << index for index, name in enumerate(self.names)}
        self.inputs = (1 << len(given)) - 1
        self.everything = (1 << len(self.nodes)) - 1
        self.uses = [self.tensors(used(node)) for node in self.nodes]
        self.makes = [self.tensors(node.output) for node in self.nodes]
        self.ancestors = self._ancestors()

    def tensors(self, names: Iterable[str]) -> int:
        """The set of those names that are tensors in here."""
        found = 0
        for name in names:
            found |= self._bits.get(name, 0)
        return found

    def named(self, tensors: int) -> list[str]:
        """The names of a set of tensors, in order."""
        return [self.names[index] for index in indices(tensors)]

    def before(self, tensors: int) -> int:
        """The nodes that a set of tensors takes to make."""
        found = 0
        for index, made in enumerate(self.makes):
            if made & tensors:
                found |= self.ancestors[index]
        return found

    def head(self, crossing: int) -> int:
        """The smallest head with that frontier: what makes it, and what its leftovers lead to.

        A tensor of the head that does not cross may be needed for an output of the model alone:
        then all that leads there is in the head too.
        """
        head = self.before(crossing)
        while left := self.crossing(head) & ~crossing:
            for index, wanted in enumerate(self.uses):
                if wanted & left and not head >> index & 1:
                    head |= self.ancestors[index]
        return head

    def crossing(self, head: int) -> int:
        """The tensors that the nodes outside of a set need from inside, or from the inputs."""
        made, wanted = self.inputs, 0
        for index in range(len(self.nodes)):
            if head >> index & 1:
                made |= self.makes[index]
            else:
                wanted |= self.uses[index]
        return made & wanted

    def _ancestors(self) -> list[int]:
        """For each node, those that it needs, with itself."""
        maker: dict[int, int] = {}
        found: list[int] = []
        for index, made in enumerate(self.makes):
            mine = 1 << index
            for tensor in indices(self.uses[index] & ~self.inputs):
                mine |= found[maker[tensor]]
            found.append(mine)
            maker |= dict.fromkeys(indices(made), index)
        return found

    @cached_property
    def descendants(self) -> list[int]:
        """For each node, those that need it, with itself."""
        found = [0] * len(self.nodes)
        for index, needed in enumerate(self.ancestors):
            for ancestor in indices(needed):
                found[ancestor] |= 1 << index
        return found

    @cached_property
    def wanted_after(self) -> list[int]:
        """For each node, the tensors that it and those that need it use."""
        found = [0] * len(self.nodes)
        for index, needed in enumerate(self.ancestors):
            for ancestor in indices(needed):
                found[ancestor] |= self.uses[index]
        return found


def indices(bits: int) -> Iterator[int]:
    """The members of a set."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def used(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node reads: its inputs, and what its subgraphs take from around it."""
    return {name for name in node.input if name}.union(*map(_captured, subgraphs(node)))


def stored_names(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that a graph holds. Some are listed as inputs too: as defaults."""
    dense = {tensor.name for tensor in graph.initializer}
    return dense | {sparse.values.name for sparse in graph.sparse_initializer}


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Inputs that must be given: not those that are stored."""
    stored = stored_names(graph)
    return [value for value in graph.input if value.name not in stored]


def _captured(graph: onnx.GraphProto) -> set[str]:
    own = stored_names(graph) | {value.name for value in graph.input}
    wanted = {value.name for value in graph.output}
    for node in graph.node:
        wanted |= used(node)
        own.update(node.output)
    return wanted - own


def _needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that an output needs."""
    wanted = {value.name for value in graph.output}
    found = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            found.append(node)
            wanted |= used(node)
    return found[::-1]


def _changing(
    nodes: list[onnx.NodeProto], changed: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes that depend on changed tensors, and the others."""
    changing, constant = [], []
    for node in nodes:
        if changed.isdisjoint(used(node)):
            constant.append(node)
        else:
            changing.append(node)
            changed = changed.union(node.output)
    return changing, constant
