"""ONNX Runtime's profile in a form that planners and people read: a time for every node."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from aimass_shared.errors import ModelError

SUFFIX = "_kernel_time"


class Node(msgspec.Struct, frozen=True):
    """One node of the graph as the runtime runs it (fused ones are one): median ms of a window."""

    node: str
    operator: str
    provider: str
    ms: float


class Operator(msgspec.Struct, frozen=True):
    """All nodes of one operator: how many, their ms together, their share of all nodes."""

    operator: str
    nodes: int
    ms: float
    share: float


class _Arguments(msgspec.Struct, frozen=True):
    op_name: str = ""
    provider: str = ""


class _Event(msgspec.Struct, frozen=True):
    cat: str = ""
    name: str = ""
    dur: float = 0.0
    args: _Arguments = _Arguments()


def nodes_of(profile: bytes, factor: float = 1.0) -> tuple[Node, ...]:
    """The nodes of a profile, in the order of their first run.

    Args:
        profile: the file that ONNX Runtime wrote; times are microseconds.
        factor: on all times, for a simulated board.

    Raises:
        ModelError: it is no such file.
    """
    try:
        events = msgspec.json.decode(profile, type=list[_Event])
    except msgspec.DecodeError as error:
        raise ModelError(f"ONNX Runtime's profile does not decode: {error}") from error
    durations: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.cat == "Node" and event.name.endswith(SUFFIX):
            key = event.name.removesuffix(SUFFIX), event.args.op_name, event.args.provider
            durations[key].append(event.dur)
    return tuple(
        Node(*key, ms=round(median(times) / 1e3 * factor, 6)) for key, times in durations.items()
    )


def by_operator(nodes: Iterable[Node]) -> Sequence[Operator]:
    """What each operator takes together, the slowest first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for node in nodes:
        groups[node.operator].append(node.ms)
    whole = sum(map(sum, groups.values())) or 1.0
    found = [
        Operator(name, len(times), round(sum(times), 6), round(sum(times) / whole, 4))
        for name, times in groups.items()
    ]
    return sorted(found, key=lambda one: (-one.ms, one.operator))
