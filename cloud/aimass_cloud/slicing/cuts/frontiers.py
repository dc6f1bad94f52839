"""All ways to cut a graph in two where at most so many tensors cross.

A head is a set of nodes with everything that they need. Nodes are decided upon in order, into the
head or out of it. Whatever is out takes along what needs it, and what is made within and needed
without crosses for certain; where too much does, the search turns back. So its cost follows the
number of cuts, not the number of heads. Of several heads with one frontier the smallest is meant.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from aimass_cloud.slicing.cuts.dag import Dag

MOST_STEPS = 1_000_000
"""Decisions about single nodes: some seconds."""


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        crossings: the sets of tensors that cross, by number of tensors.
        incomplete: number of crossing tensors whose cuts are not all here; None if all are.
    """

    crossings: list[int]
    incomplete: int | None


class _Budget:
    """How much may still be found and decided."""

    def __init__(self, cuts: int, steps: int) -> None:
        self.cuts, self.steps = cuts, steps

    def step(self) -> bool:
        self.steps -= 1
        return self.steps >= 0

    def cut(self) -> bool:
        self.cuts -= 1
        return self.cuts >= 0


def frontiers(dag: Dag, most_tensors: int, most_cuts: int, *, steps: int = MOST_STEPS) -> Found:
    """The sets of tensors that cut a graph, fewest tensors first.

    Args:
        dag: the graph.
        most_tensors: that may cross.
        most_cuts: after which the search ends; those of few tensors are found first.
        steps: decisions after which it ends.
    """
    budget = _Budget(most_cuts, steps)
    found: list[int] = []
    for count in range(1, most_tensors + 1):
        for crossing in _crossings(dag, count, budget):
            if not budget.cut():
                return Found(found, count)
            found.append(crossing)
        if budget.steps < 0:
            return Found(found, count)
    return Found(found, None)


def _crossings(dag: Dag, count: int, budget: _Budget) -> Iterator[int]:
    """The cuts where exactly so many tensors cross."""
    seen = {0}
    stack = [(0, 0, dag.inputs, 0)]  # head, tail, made in the head, wanted by the tail
    while stack and budget.step():
        head, tail, made, wanted = stack.pop()
        crossing = made & wanted
        if crossing.bit_count() > count:
            continue
        free = dag.everything & ~(head | tail)
        if free:
            lowest = free & -free
            index = lowest.bit_length() - 1
            stack.append((head | lowest, tail, made | dag.makes[index], wanted))
            stack.append(
                (head, tail | dag.descendants[index], made, wanted | dag.wanted_after[index])
            )
        elif crossing.bit_count() == count and crossing not in seen:
            seen.add(crossing)
            if dag.head(crossing):
                yield crossing
