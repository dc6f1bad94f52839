"""Policies under load on a link that comes and goes, beside an offline bound and static plans.

`python -m benchmarks.slices traces` judges; `python -m benchmarks.slices.traces` prints everybody.
Profiles are replayed from `profiles/*.json`; seeds give arrivals, link and service times.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from aimass_shared.planning.profiles import Profile, decode
from benchmarks.models.table import Row, at_least, at_most
from benchmarks.slices.bound import bound
from benchmarks.slices.policies import ADAPTIVE, Maker, Static, statics
from benchmarks.slices.simulator import Outcome, Simulation
from benchmarks.slices.sockets import replayed
from benchmarks.slices.world import World, drawn

FOLDER: Final = Path(__file__).parent / "profiles"
RATES: Final = (5.0, 10.0, 20.0, 40.0, 80.0)
SEEDS, SECONDS = 6, 30.0
MOST_LOST: Final = 0.5
"""Candidates that lose more of the accuracy are no candidates for anyone."""
OF_BOUND, OF_STATIC_LOSS = 0.97, 0.5
OURS, STATIC, BOUND = "ours", "best static plan in hindsight", "offline bound"
REAL: Final = (OURS, "Neurosurgeon + queue + probe")

Key = tuple[float, int]
"""Rate and seed."""


class Runs(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs: of each rate, `seeds` from `first` on, each of so many seconds.

    `brief` leaves out all adaptive policies but ours.
    """

    seeds: int = SEEDS
    seconds: float = SECONDS
    first: int = 0
    rates: tuple[float, ...] = RATES
    brief: bool = False


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy did in one run; bytes are of one request."""

    goodput: float
    missed: float
    p50_ms: float
    p99_ms: float
    sent_bytes: float


@dataclass(eq=False)
class Results:
    """Of one workload: figures by policy and run, the bound by run."""

    workload: str
    bounds: dict[Key, float] = field(default_factory=dict)
    figures: dict[str, dict[Key, Figures]] = field(default_factory=dict)

    @property
    def rates(self) -> list[float]:
        """Those that were run, lowest first."""
        return sorted({rate for rate, _ in self.bounds})

    def goodput(self, who: str) -> dict[Key, float]:
        """By run."""
        if who == BOUND:
            return self.bounds
        return {key: one.goodput for key, one in self.figures[who].items()}

    def by_seed(self, who: str) -> list[float]:
        """Mean over the rates, for each seed."""
        runs = self.goodput(who)
        seeds = sorted({seed for _, seed in runs})
        return [float(np.mean([g for (_, s), g in runs.items() if s == seed])) for seed in seeds]

    def mean(self, who: str, rate: float | None = None) -> float:
        """Over all runs, or those of a rate."""
        runs = self.goodput(who).items()
        return float(np.mean([one for (r, _), one in runs if rate is None or r == rate]))


def workloads() -> dict[str, tuple[Profile, ...]]:
    """Saved profiles by the name of the workload."""
    found = {path.stem: decode(path.read_bytes(), path.name) for path in FOLDER.glob("*.json")}
    return {
        name: tuple(one for one in found[name].profiles if one.loss <= MOST_LOST)
        for name in sorted(found)
    }


def figures(world: World, outcome: Outcome) -> Figures:
    """Of one run; percentiles are of the requests that were answered."""
    answered = outcome.latency_ms[np.isfinite(outcome.latency_ms)]
    p50, p99 = np.percentile(answered, (50, 99)) if len(answered) else (np.inf, np.inf)
    return Figures(
        goodput=outcome.goodput(world.deadline_ms),
        missed=float(np.mean(outcome.latency_ms > world.deadline_ms)),
        p50_ms=float(p50),
        p99_ms=float(p99),
        sent_bytes=outcome.sent_bytes / max(1, len(outcome.latency_ms)),
    )


def results(workload: str, profiles: Sequence[Profile], runs: Runs) -> Results:
    """Run everybody through the same worlds."""
    found = Results(workload)
    for rate in runs.rates:
        for seed in range(runs.first, runs.first + runs.seeds):
            world = drawn(profiles, rate_per_s=rate, seconds=runs.seconds, seed=seed)
            found.bounds[rate, seed] = bound(world)
            for who, outcome in _outcomes(world, brief=runs.brief):
                found.figures.setdefault(who, {})[rate, seed] = figures(world, outcome)
    found.figures[STATIC] = _hindsight(found)
    return found


def _outcomes(world: World, *, brief: bool) -> Iterator[tuple[str, Outcome]]:
    for who, make in ADAPTIVE.items():
        if who == OURS or not brief:
            yield who, Simulation(world, make(world)).run()
    for who, policy in statics(world):
        yield who, Simulation(world, policy).run()


def _hindsight(found: Results) -> dict[Key, Figures]:
    """For each rate, the static plan whose mean over the seeds turned out best."""
    plans = [who for who in found.figures if who not in ADAPTIVE]
    chosen: dict[Key, Figures] = {}
    for rate in found.rates:
        best = max(plans, key=lambda who: found.mean(who, rate))
        chosen |= {key: one for key, one in found.figures[best].items() if key[0] == rate}
    return chosen


def judged(found: Results) -> list[Row]:
    """Everybody's goodput, and ours beside its bars."""
    name = f"traces {found.workload}"
    shown = [STATIC, *(who for who in ADAPTIVE if who in found.figures)]
    rows = [Row(name, BOUND, "goodput", found.mean(BOUND))]
    rows += [Row(name, who, "goodput", found.mean(who)) for who in shown]
    of_bound = found.mean(OURS) / found.mean(BOUND)
    worst = min(found.mean(OURS, rate) / found.mean(BOUND, rate) for rate in found.rates)
    lost = _ratio(1 - found.mean(OURS), 1 - found.mean(STATIC))
    spread = float(np.std(found.by_seed(OURS)))
    return [
        *rows,
        Row(name, OURS, "goodput, deviation between seeds", spread),
        at_least(Row(name, OURS, "share of the bound", of_bound), OF_BOUND),
        Row(name, OURS, "share of the bound, worst rate", worst),
        at_most(Row(name, OURS, "loss / best static's loss", lost), OF_STATIC_LOSS),
    ]


def _ratio(lost: float, rival_lost: float) -> float:
    """One loss as a multiple of another one; `inf` where only the other one is nothing."""
    if rival_lost > 0:
        return lost / rival_lost
    return math.inf if lost > 0 else 0.0


def measure(quick: bool) -> list[Row]:  # noqa: FBT001  as every benchmark here
    """Judge all saved workloads; `quick` takes two seeds and ten seconds of each."""
    runs = Runs(seeds=2, seconds=10.0) if quick else Runs()
    rows: list[Row] = []
    for name, profiles in workloads().items():
        rows += judged(results(name, profiles, runs))
    return rows


def table(found: Results) -> str:
    """Markdown: everybody, best first; plans that never change without those far behind."""
    floor = found.mean(STATIC) / 2
    names = [who for who in found.figures if who in ADAPTIVE or found.mean(who) >= floor]
    head = ("goodput", "between seeds", f"at {found.rates[-1]:g}/s", "missed %", "p50 ms", "p99 ms")
    spread, last = np.std(found.by_seed(BOUND)), found.mean(BOUND, found.rates[-1])
    lines = [
        f"| {found.workload} | {' | '.join(head)} | bytes |",
        "|---|---|---|---|---|---|---|---|",
        f"| {BOUND} | {found.mean(BOUND):.4f} | {spread:.4f} | {last:.4f} | | | | |",
    ]
    lines += [_line(found, who) for who in sorted(names, key=lambda who: -found.mean(who))]
    return "\n".join(lines)


def _line(found: Results, who: str) -> str:
    runs, last = found.figures[who].values(), found.rates[-1]
    mean = {
        name: float(np.mean([getattr(one, name) for one in runs]))
        for name in ("missed", "p50_ms", "p99_ms", "sent_bytes")
    }
    return (
        f"| {who} | {found.mean(who):.4f} | {np.std(found.by_seed(who)):.4f} |"
        f" {found.mean(who, last):.4f} | {100 * mean['missed']:.2f} | {mean['p50_ms']:.0f} |"
        f" {mean['p99_ms']:.0f} | {mean['sent_bytes']:.0f} |"
    )


def in_real_time(
    name: str, profiles: Sequence[Profile], *, rate: float, seconds: float
) -> Iterator[str]:
    """Some policies over real sockets, beside the simulation of the same world."""
    world = drawn(profiles, rate_per_s=rate, seconds=seconds, seed=0)
    plans = {who: plan for who, plan in statics(world) if plan.drops_late}
    best = max(
        plans, key=lambda who: Simulation(world, plans[who]).run().goodput(world.deadline_ms)
    )

    def never_changes(_world: World) -> Static:
        return Static(plans[best].row, drops_late=True)

    rivals: dict[str, Maker] = {who: ADAPTIVE[who] for who in REAL}
    rivals[f"static: {best}"] = never_changes
    for who, make in rivals.items():
        real = figures(world, replayed(world, make(world)))
        simulated = figures(world, Simulation(world, make(world)).run())
        yield (
            f"| {name}, {rate:g}/s | {who} | {real.goodput:.4f} | {simulated.goodput:.4f} |"
            f" {real.p50_ms:.0f} | {simulated.p50_ms:.0f} | {real.p99_ms:.0f} |"
            f" {simulated.p99_ms:.0f} |"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print everybody, or some in real time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slices.traces")
    parser.add_argument("name", nargs="*", metavar="WORKLOAD")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--sockets", action="store_true", help="real time, over shaped sockets")
    parser.add_argument("--rate", type=float, default=20.0, help="of --sockets, requests/s (20)")
    parser.add_argument("--first", type=int, default=0, help="first seed (0)")
    parser.add_argument("--brief", action="store_true", help="ours and static plans only")
    arguments = parser.parse_args(argv)
    runs = Runs(
        seeds=arguments.seeds,
        seconds=arguments.seconds,
        first=arguments.first,
        brief=arguments.brief,
    )
    for name, profiles in workloads().items():
        if arguments.name and name not in arguments.name:
            continue
        if arguments.sockets:
            for line in in_real_time(
                name, profiles, rate=arguments.rate, seconds=arguments.seconds
            ):
                print(line, flush=True)
            continue
        found = results(name, profiles, runs)
        print(table(found), flush=True)
        for row in judged(found)[-4:]:
            print(f"{row.candidate}: {row.measure} {row.value:.4f} {row.bar} {row.ok}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
