"""Places where a runtime joins nodes into one: a cut through them costs speed.

Measured: up to 1.8 times the time of the whole. Such cuts stay valid; they are marked.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

from aimass_cloud.slicing.cuts.dag import Dag

Region: TypeAlias = tuple[str, int]
"""The name of what is joined, such as `Conv+Relu`, and the set of its nodes."""

ACTIVATIONS: Final = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "PRelu"}
)
PAIRS: Final = {
    "Conv": ACTIVATIONS | {"BatchNormalization", "Add", "Mul"},
    "ConvTranspose": ACTIVATIONS | {"BatchNormalization", "Add"},
    "BatchNormalization": ACTIVATIONS | {"Add"},
    "MatMul": frozenset({"Add"}),
    "Gemm": ACTIVATIONS | {"Gelu"},
    "Pad": frozenset({"Conv", "AveragePool", "MaxPool"}),
    "Transpose": frozenset({"MatMul"}),
    "DequantizeLinear": frozenset({"Conv", "MatMul", "Gemm", "Add", "MaxPool", "Relu"}),
}
"""What is joined with the one node that needs its output."""

PRODUCTS: Final = frozenset({"Conv", "MatMul", "Gemm", "BatchNormalization"})
AFTER_PRODUCT: Final = {"Add": ACTIVATIONS | {"Gelu", "FastGelu"}}
"""What is joined when a product comes before, or the scaling of one."""

SCALES: Final = frozenset({"Div", "Mul", "Add", "Where"})
LONGEST: Final = 4


def regions(dag: Dag) -> list[Region]:
    """What a runtime may join."""
    places = _Places(dag)
    found = [*_pairs(places), *_norms(places), *_gelus(places), *_gates(places), *_heads(places)]
    return list({nodes: (name, nodes) for name, nodes in found}.values())


def split_by(head: int, found: list[Region]) -> tuple[str, ...]:
    """Names of what a cut would split."""
    return tuple(sorted({name for name, nodes in found if nodes & head and nodes & ~head}))


class _Places:
    """Who makes a tensor, and who needs it."""

    def __init__(self, dag: Dag) -> None:
        self.nodes = dag.nodes
        self.maker = {name: i for i, node in enumerate(dag.nodes) for name in node.output if name}
        self._users: dict[str, list[int]] = {}
        for index, node in enumerate(dag.nodes):
            for name in node.input:
                self._users.setdefault(name, []).append(index)

    def kind(self, index: int) -> str:
        return str(self.nodes[index].op_type)

    def users(self, index: int) -> list[int]:
        """Nodes that need the first output of a node."""
        return self._users.get(self.nodes[index].output[0], [])

    def only_user(self, index: int) -> int | None:
        users = self.users(index)
        return users[0] if len(users) == 1 else None

    def makers(self, index: int) -> list[int]:
        """Nodes that make the inputs of a node."""
        return [self.maker[name] for name in self.nodes[index].input if name in self.maker]

    def of_kind(self, *kinds: str) -> list[int]:
        return [index for index, node in enumerate(self.nodes) if node.op_type in kinds]


def _pairs(places: _Places) -> Iterator[Region]:
    for index in range(len(places.nodes)):
        user = places.only_user(index)
        if user is None:
            continue
        first, second = places.kind(index), places.kind(user)
        joined = PAIRS.get(first, frozenset())
        if any(places.kind(maker) in PRODUCTS for maker in places.makers(index)):
            joined = joined | AFTER_PRODUCT.get(first, frozenset())
        if second in joined:
            yield f"{first}+{second}", 1 << index | 1 << user


def _norms(places: _Places) -> Iterator[Region]:
    """Layer and RMS normalisation in single steps: from the squares to the quotient."""
    for root in places.of_kind("Sqrt"):
        back = {root, *_line_back(places, root, {"Add", "ReduceMean", "Pow", "Mul"})}
        if not any(places.kind(index) == "ReduceMean" for index in back):
            continue
        nodes = set(back)
        for index in back:
            if places.kind(index) in ("Pow", "Mul"):
                nodes |= _centring(places, index)
        nodes |= _line_on(places, root, {"Div", "Reciprocal", "Mul", "Add"})
        yield "LayerNormalization in steps", _set(nodes)


def _centring(places: _Places, square: int) -> set[int]:
    """The nodes that take the mean off."""
    subtractions = [index for index in places.makers(square) if places.kind(index) == "Sub"]
    means = [
        maker
        for index in subtractions
        for maker in places.makers(index)
        if places.kind(maker) == "ReduceMean"
    ]
    return {*subtractions, *means} if means else set()


def _gelus(places: _Places) -> Iterator[Region]:
    for error in places.of_kind("Erf"):
        before = {index for index in places.makers(error) if places.kind(index) in ("Div", "Mul")}
        yield "Gelu in steps", _set({error, *before} | _line_on(places, error, {"Add", "Mul"}))


def _gates(places: _Places) -> Iterator[Region]:
    """X * sigmoid(x)."""
    for index in places.of_kind("Sigmoid", "HardSigmoid"):
        user = places.only_user(index)
        source = places.nodes[index].input[0]
        if user is not None and places.kind(user) == "Mul" and source in places.nodes[user].input:
            yield f"{places.kind(index)}+Mul", 1 << index | 1 << user


def _heads(places: _Places) -> Iterator[Region]:
    """Attention: a product, scaled or masked, softmax, a product."""
    for index in places.of_kind("Softmax"):
        nodes = {index, *_line_back(places, index, {*SCALES, "MatMul"})}
        products = [one for one in places.users(index) if places.kind(one) == "MatMul"]
        if products and any(places.kind(one) == "MatMul" for one in nodes):
            yield "attention", _set(nodes.union(products))


def _line_back(places: _Places, index: int, kinds: set[str]) -> set[int]:
    """Nodes of some kinds in a line before a node, as far as the first product."""
    found: set[int] = set()
    for _ in range(LONGEST):
        makers = [one for one in places.makers(index) if places.kind(one) in kinds]
        if not makers:
            break
        index = makers[0]
        found.add(index)
        if places.kind(index) == "MatMul":
            break
    return found


def _line_on(places: _Places, index: int, kinds: set[str]) -> set[int]:
    """Nodes of some kinds in a line after a node, while each has one user."""
    found: set[int] = set()
    for _ in range(LONGEST - 1):
        user = places.only_user(index)
        if user is None or places.kind(user) not in kinds:
            break
        found.add(user)
        index = user
    return found


def _set(nodes: set[int]) -> int:
    return sum(1 << index for index in nodes)
