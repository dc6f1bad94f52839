"""The cuts of a model: what crosses, how many bytes a sample, and what a cut would split."""

import hashlib
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import msgspec

from aimass_cloud.slicing.cuts.dag import Dag
from aimass_cloud.slicing.cuts.frontiers import Found, frontiers
from aimass_cloud.slicing.cuts.fusions import Region, regions, split_by
from aimass_cloud.slicing.cuts.reading import Whole
from aimass_cloud.slicing.cuts.running import Values
from aimass_cloud.slicing.cuts.shapes import Crossing, Sizes, Tensors
from aimass_shared.errors import NotFoundError, UncuttableModelError

MOST_TENSORS: Final = 3
MOST_CUTS: Final = 2000
SLUG: Final = 24
DIGEST: Final = 8
NEAR: Final = 0.5
ENDINGS: Final = re.compile(r"(_output)?_0$")


class Cut(msgspec.Struct, frozen=True):
    """A way to cut a model in two.

    Attributes:
        id: of the tensors that cross alone, so that models of one architecture share it.
        crossing: in the order of the graph.
        bytes_per_sample: of all that cross; None where the size of an axis is not known.
        head_nodes, tail_nodes: without constants.
        early: outputs of the model that the head gives already; they are not given by the tail.
        splits: what a runtime would join and the cut keeps apart, at a cost in time.
    """

    id: str
    crossing: tuple[Crossing, ...]
    bytes_per_sample: int | None
    head_nodes: int
    tail_nodes: int
    early: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that cross."""
        return tuple(one.name for one in self.crossing)


class Cuts(msgspec.Struct, frozen=True):
    """The cuts of a model, from its inputs to its outputs.

    Attributes:
        model: digest of the whole.
        input_bytes: of a sample of all inputs: what is sent if nothing runs before the cut.
        complete: whether all are here, up to so many crossing tensors.
        unsized: axes whose size must be told for bytes to be known.
        note: what is left out, if something is.
        refused: tensors that cannot cross, each with why; cuts where one does are left out.
    """

    model: str
    nodes: int
    input_bytes: int | None
    cuts: tuple[Cut, ...]
    complete: bool
    note: str = ""
    refused: tuple[str, ...] = ()
    unsized: tuple[str, ...] = ()

    def find(self, wanted: str) -> Cut:
        """The cut with an id, or where the tensors with these names cross (joined by commas).

        Raises:
            NotFoundError: there is none; the detail suggests one.
        """
        names = tuple(sorted(wanted.split(",")))
        for cut in self.cuts:
            if cut.id == wanted or tuple(sorted(cut.names)) == names:
                return cut
        known = [cut.id for cut in self.cuts] + [cut.names[0] for cut in self.cuts]
        near = get_close_matches(wanted, known, n=1, cutoff=NEAR)
        hint = f"; did you mean {near[0]}" if near else ""
        raise NotFoundError(f"the model has no cut {wanted!r} among {len(self.cuts)}{hint}")


def cuts_of(
    whole: Whole,
    *,
    most_tensors: int = MOST_TENSORS,
    most_cuts: int = MOST_CUTS,
    sizes: Sizes | None = None,
    inputs: Values | None = None,
) -> Cuts:
    """All valid cuts of a model, first those near its inputs.

    A cut is valid where the tail needs nothing of the head but the tensors that cross; an input of
    the model that the tail needs crosses too. If, Loop and Scan are never cut open.

    Args:
        whole: the model.
        most_tensors: that may cross.
        most_cuts: that are listed; those of few tensors are found first.
        sizes: of symbolic axes other than that of the batch.
        inputs: arrays to run the model with where a type can only be seen; they tell sizes too.

    Raises:
        UncuttableModelError: it has fewer than two nodes that depend on an input.
    """
    dag = Dag(whole.model.graph)
    if len(dag.nodes) < 2:  # noqa: PLR2004  one on each side
        raise UncuttableModelError("fewer than two nodes depend on an input: nothing to cut")
    found = frontiers(dag, most_tensors, most_cuts)
    tensors = Tensors(whole, sizes or {}, inputs)
    crossing = {name for one in found.crossings for name in dag.named(one)}
    tensors.look(sorted(crossing))
    refused = {name: why for name in sorted(crossing) if (why := tensors.refusal(name))}
    given, outputs = dag.named(dag.inputs), outputs_of(whole)
    barred, joined = dag.tensors(set(refused)), regions(dag)
    cuts = [
        _cut(dag, one, tensors, joined=joined, outputs=outputs)
        for one in found.crossings
        if not one & barred
    ]
    return Cuts(
        whole.digest,
        len(dag.nodes),
        _sum([tensors.crossing(name) for name in given if not tensors.refusal(name)]),
        tuple(sorted(cuts, key=lambda cut: (cut.head_nodes, len(cut.crossing), cut.id))),
        complete=found.incomplete is None,
        note=_note(found),
        refused=tuple(f"tensor {name!r} {why}" for name, why in refused.items()),
        unsized=tensors.unsized,
    )


def outputs_of(whole: Whole) -> list[str]:
    """Names of a model's outputs."""
    return [value.name for value in whole.model.graph.output]


def _cut(
    dag: Dag, crossing: int, tensors: Tensors, *, joined: list[Region], outputs: Sequence[str]
) -> Cut:
    head = dag.head(crossing)
    count = head.bit_count()
    made = {name for i, node in enumerate(dag.nodes) if head >> i & 1 for name in node.output}
    names = dag.named(crossing)
    across = tuple(tensors.crossing(name) for name in names)
    return Cut(
        _id(names),
        across,
        _sum(across),
        count,
        len(dag.nodes) - count,
        early=tuple(name for name in outputs if name in made),
        splits=split_by(head, joined),
    )


def _id(names: Sequence[str]) -> str:
    """Readable, stable, and fit for a file name and a topic."""
    digest = hashlib.sha256("\0".join(sorted(names)).encode()).hexdigest()[:DIGEST]
    slug = re.sub(r"[^A-Za-z0-9]+", "_", ENDINGS.sub("", names[-1])).strip("_")[-SLUG:].strip("_")
    count = len(names) if len(names) > 1 else ""
    return "-".join(part for part in (f"cut{count}", slug, digest) if part)


def _sum(tensors: Sequence[Crossing]) -> int | None:
    sizes = [one.bytes_per_sample for one in tensors]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _note(found: Found) -> str:
    if found.incomplete is None:
        return ""
    return (
        f"the search ended after {len(found.crossings)} cuts: of those with {found.incomplete} or"
        " more crossing tensors some are missing"
    )
