"""Who competes: static plans, what was published, our planner, and our planner without a part."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from aimass_shared.planning import Backlog, Link, Planner, PlanTable, Profile
from aimass_shared.planning import Policy as Behaviour
from aimass_shared.planning.prediction import predict
from benchmarks.slices.simulator import SHED, Job, Pick, Queues
from benchmarks.slices.world import World

FIRST_LINK = Link(bandwidth_mbit_s=4.0, rtt_ms=30.0)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What of us is left out. `told`: what kind of board it runs on."""

    behaviour: Behaviour = Behaviour()
    replans: bool = True
    drops_late: bool = True
    told: bool = True


@dataclass(eq=False)
class Static:
    """Always the same plan; `drops_late` is whether it throws away what is already late."""

    row: int
    drops_late: bool

    def choose(self, remaining_ms: float, queues: Queues, now: float) -> Pick:  # noqa: ARG002
        return Pick(self.row)

    def again(self, job: Job, remaining_ms: float, now: float) -> Pick:  # noqa: ARG002
        return Pick(job.row)

    def ran(self, row: int, took_ms: float) -> None: ...
    def sending(self, sent_bytes: int, now: float) -> None: ...
    def drained(self) -> None: ...
    def arrived(self, sent_bytes: int, took_ms: float, now: float) -> None: ...
    def given_up(self, now: float) -> None: ...
    def probe_due(self, now: float) -> int:  # noqa: ARG002
        return 0


@dataclass(eq=False)
class Planned:
    """Our planner over some of the rows."""

    rows: list[int]
    planner: Planner
    replans: bool = True
    drops_late: bool = True

    def choose(self, remaining_ms: float, queues: Queues, now: float) -> Pick:
        ahead = self._ahead(queues, now)
        choice = self.planner.choose(remaining_ms, ahead, now)
        return self._pick(choice.row, choice.edge_ms)

    def again(self, job: Job, remaining_ms: float, now: float) -> Pick:
        if not self.replans:
            return Pick(job.row, job.edge_ms)
        choice = self.planner.again(self.rows.index(job.row), remaining_ms, now)
        return self._pick(choice.row, choice.edge_ms)

    def ran(self, row: int, took_ms: float) -> None:
        self.planner.ran(self.rows.index(row), took_ms)

    def sending(self, sent_bytes: int, now: float) -> None:
        self.planner.uplink.started(sent_bytes, now)

    def drained(self) -> None:
        self.planner.uplink.drained()

    def arrived(self, sent_bytes: int, took_ms: float, now: float) -> None:
        self.planner.uplink.arrived(sent_bytes, took_ms, now=now)

    def given_up(self, now: float) -> None:
        self.planner.uplink.given_up(now)

    def probe_due(self, now: float) -> int:
        return self.planner.uplink.probe_due(now)

    def _ahead(self, queues: Queues, now: float) -> Backlog:
        return Backlog(
            edge_ms=queues.edge_backlog_ms(now),
            uplink_ms=self.planner.uplink.backlog_ms(queues.waiting_bytes, now),
        )

    def _pick(self, row: int, edge_ms: float) -> Pick:
        return Pick(SHED if row < 0 else self.rows[row], edge_ms)


@dataclass(eq=False)
class MinCut(Planned):
    """DADS (Hu et al., INFOCOM 2019) over the measured cuts: the least latency while every stage
    keeps up with the rate, otherwise the plan whose slowest stage is fastest."""

    gap_ms: float = 1e3
    last_s: float = 0.0

    def choose(self, remaining_ms: float, queues: Queues, now: float) -> Pick:  # noqa: ARG002
        self.gap_ms += 0.05 * ((now - self.last_s) * 1e3 - self.gap_ms)
        self.last_s = now
        costs = self.planner.costs
        found = predict(
            costs,
            self.planner.corrections.slowdown,
            link=self.planner.uplink.link(now),
            backlog=Backlog(),
            remaining_ms=remaining_ms,
        )
        slowest = np.maximum(found.edge_ms * costs.queues, found.uplink_ms)
        light = slowest <= self.gap_ms
        row = int(
            np.where(light, found.total_ms, np.inf).argmin() if light.any() else slowest.argmin()
        )
        return Pick(self.rows[row], float(found.edge_ms[row]))


Maker = Callable[[World], "Planned | Static"]


def planned(
    options: Options = Options(),  # noqa: B008  immutable
    keep: Callable[[Profile], bool] = lambda _one: True,
    kind: type[Planned] = Planned,
) -> Maker:
    """Our planner over the candidates that are kept."""

    def make(world: World) -> Planned:
        rows = [row for row, one in enumerate(world.profiles) if keep(one)]
        table = PlanTable(model="", profiles=tuple(world.profiles[row] for row in rows))
        planner = Planner(
            table,
            slowdown=world.slowdown if options.told else 1.0,
            link=FIRST_LINK,
            now=0.0,
            policy=options.behaviour,
        )
        return kind(rows, planner, replans=options.replans, drops_late=options.drops_late)

    return make


def _full(one: Profile) -> bool:
    return one.candidate.width == 1.0 and one.candidate.precision == "fp32"


def _uncoded(one: Profile) -> bool:
    return one.candidate.codec == "none"


def _published(one: Profile) -> bool:
    return _full(one) and _uncoded(one)


OURS = Behaviour()
FASTEST = Behaviour(in_time=False, priced=False, least_worth=0.0)
BLIND = msgspec.structs.replace(FASTEST, queues=False, probing=None)
PATIENT = Options(behaviour=FASTEST, replans=False, drops_late=False)
PUBLISHED = msgspec.structs.replace(PATIENT, behaviour=BLIND)


def _without(**parts: object) -> Options:
    return Options(behaviour=msgspec.structs.replace(OURS, **parts))


ADAPTIVE: dict[str, Maker] = {
    "Neurosurgeon": planned(PUBLISHED, _published),
    "Neurosurgeon + queue + probe": planned(PATIENT, _published),
    "DADS min-cut": planned(PUBLISHED, _published, MinCut),
    "ours": planned(),
    "ours, told nothing of the board": planned(Options(told=False)),
    "ours - width": planned(keep=lambda one: one.candidate.width == 1.0),
    "ours - precision": planned(keep=lambda one: one.candidate.precision == "fp32"),
    "ours - codec": planned(keep=_uncoded),
    "ours - split": planned(keep=lambda one: one.candidate.place != "split"),
    "ours - probe": planned(_without(probing=None)),
    "ours - queue": planned(_without(queues=False)),
    "ours - deadline": planned(PATIENT),
    "ours - prices": planned(_without(priced=False)),
    "ours - second look": planned(Options(replans=False)),
}


def statics(world: World) -> Iterator[tuple[str, Static]]:
    """Every plan, with and without throwing away what is late."""
    for row, one in enumerate(world.profiles):
        for drops in (False, True):
            yield f"{one.candidate.name}{' + shed' if drops else ''}", Static(row, drops)
