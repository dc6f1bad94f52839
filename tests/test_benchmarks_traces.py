"""The bench of the planner measures what it says: queues, link and bound are right by hand."""

import numpy as np
import pytest
from benchmarks.slices.bound import bound
from benchmarks.slices.codecs import jpeg
from benchmarks.slices.planner import decision_ms
from benchmarks.slices.policies import ADAPTIVE, Static, statics
from benchmarks.slices.simulator import Outcome, Simulation
from benchmarks.slices.sockets import replayed
from benchmarks.slices.traces import OURS, STATIC, Runs, judged, results, table, workloads
from benchmarks.slices.world import Uplink, World, drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from aimass_shared.planning import Candidate, Profile

EDGE = Profile(candidate=Candidate(1.0, "fp32", "edge"), edge_ms=10.0)
AWAY = Profile(candidate=Candidate(1.0, "fp32", "cloud"), bytes_up=1250, cloud_ms=5.0)
TWO_SPELLS = Uplink(np.array([0.0, 1.0, 2.0, 1e6]), np.array([1.0, 0.0, 2.0, 2.0]))


def world(*arrivals_s: float, deadline_ms: float = 25.0, uplink: Uplink = TWO_SPELLS) -> World:
    """The edge takes 10 ms, the uplink 10 ms at 1 Mbit/s, the cloud 5 ms, a round trip 4 ms."""
    count = len(arrivals_s)
    return World(
        profiles=(EDGE, AWAY),
        arrivals_s=np.array(arrivals_s),
        edge_ms=np.tile([10.0, 0.0], (count, 1)),
        cloud_ms=np.tile([0.0, 5.0], (count, 1)),
        uplink=uplink,
        deadline_ms=deadline_ms,
        rtt_ms=4.0,
        slowdown=1.0,
    )


def latencies(outcome: Outcome) -> list[float]:
    return [round(float(ms), 6) for ms in outcome.latency_ms]


@given(st.floats(0, 3), st.floats(0, 3e5))
def test_what_an_uplink_carries_is_what_it_takes(start_s: float, sent_bytes: float) -> None:
    done = float(TWO_SPELLS.done_at(start_s, sent_bytes))
    assert done >= start_s
    carried = float(TWO_SPELLS.carried(done) - TWO_SPELLS.carried(start_s))
    assert carried == pytest.approx(sent_bytes, abs=1e-3)


def test_the_edge_does_one_thing_at_a_time() -> None:
    assert latencies(Simulation(world(0, 0, 0.1), Static(0, drops_late=False)).run()) == [
        10,
        20,
        10,
    ]


def test_the_uplink_does_too_and_the_cloud_does_not() -> None:
    assert latencies(Simulation(world(0, 0, 0.1), Static(1, drops_late=False)).run()) == [
        19,
        29,
        19,
    ]


def test_in_a_dead_spell_nothing_goes_up() -> None:
    late = Simulation(world(1.5), Static(1, drops_late=False)).run()
    assert latencies(late) == [500 + 5 + 9]
    dropped = Simulation(world(1.5), Static(1, drops_late=True)).run()
    assert latencies(dropped) == [float("inf")]
    assert dropped.sent_bytes == 0


def test_what_is_late_is_not_begun() -> None:
    outcome = Simulation(world(0, 0, 0, 0, 0), Static(0, drops_late=True)).run()
    assert latencies(outcome) == [10, 20, 30, float("inf"), float("inf")]
    assert outcome.goodput(25.0) == 0.4


def test_the_bound_is_what_can_be_done_by_hand() -> None:
    dead = Uplink(np.array([0.0, 1e6]), np.array([0.0, 0.0]))
    assert bound(world(0, 0.1, 0.2, uplink=dead)) == pytest.approx(1.0)
    # Five at once: 2.5 of them fit in 25 ms, whole or not.
    assert bound(world(0, 0, 0, 0, 0, uplink=dead)) == pytest.approx(0.5)
    # The link takes one of them, and a part of a second one: 16 ms, or a little more, for 10 ms.
    assert (2.5 + 1.6) / 5 <= bound(world(0, 0, 0, 0, 0)) <= (2.5 + 2.0) / 5 + 1e-9
    assert bound(world(0, deadline_ms=5.0)) == 0


@pytest.mark.parametrize("workload", sorted(workloads()))
@pytest.mark.parametrize("rate", [20.0, 80.0])
def test_nobody_passes_the_bound(workload: str, rate: float) -> None:
    run = drawn(workloads()[workload], rate_per_s=rate, seconds=3.0, seed=5)
    most = bound(run)
    for who in (OURS, "ours - prices", "Neurosurgeon + queue + probe", "DADS min-cut"):
        assert Simulation(run, ADAPTIVE[who](run)).run().goodput(150.0) <= most + 1e-9, who
    for who, plan in statics(run):
        assert Simulation(run, plan).run().goodput(150.0) <= most + 1e-9, who


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0, 2.5), min_size=1, max_size=12), st.floats(8, 200), st.integers(0, 1000)
)
def test_nor_does_a_policy_that_guesses(
    arrivals: list[float], deadline_ms: float, seed: int
) -> None:
    class Guessing(Static):
        """Any place, at random."""

        def choose(self, *args: object) -> object:  # type: ignore[override]
            self.row = int(random.integers(2))
            return super().choose(*args)  # type: ignore[arg-type]

    random = np.random.default_rng(seed)
    run = world(*sorted(arrivals), deadline_ms=deadline_ms)
    done = Simulation(run, Guessing(0, drops_late=True)).run()  # type: ignore[arg-type]
    assert done.goodput(deadline_ms) <= bound(run) + 1e-9


def test_a_run_is_the_same_each_time_and_its_table_has_everybody() -> None:
    profiles = workloads()["sensor-graph"]
    runs = Runs(seeds=1, seconds=2.0, rates=(10.0, 80.0))
    first, second = (results("w", profiles, runs) for _ in range(2))
    assert (first.figures, first.bounds) == (second.figures, second.bounds)
    assert not any(np.isnan(row.value) for row in judged(first)), "of the rates that were run"
    text = table(first)
    assert all(f"| {who} |" in text for who in (*ADAPTIVE, STATIC))


def test_real_sockets_tell_what_the_simulator_tells() -> None:
    steady = Uplink(np.array([0.0, 1e6]), np.array([1.0, 1.0]))
    run = world(0.1, 0.2, 0.3, 0.4, deadline_ms=150.0, uplink=steady)
    for row, expected in ((0, 10.0), (1, 19.0)):
        seen = replayed(run, Static(row, drops_late=False)).latency_ms
        assert expected - 0.5 <= float(seen.min()) <= expected + 60


def test_over_sockets_what_fails_fails_the_run() -> None:
    class Broken(Static):
        def ran(self, row: int, took_ms: float) -> None:  # noqa: ARG002  as every policy
            raise ArithmeticError(f"row {row}")

    with pytest.raises(ArithmeticError, match="row 0"):
        replayed(world(0.0), Broken(0, drops_late=False))


def test_a_choice_among_forty_is_timed() -> None:
    assert 0 < decision_ms(workloads()["sensor-graph"]) < 100


def test_pictures_come_back_from_jpeg_much_as_they_were() -> None:
    ramps = np.linspace(0.0, 0.5, 16)[:, None] + np.linspace(0.0, 0.5, 16)
    array = np.stack([ramps, 1 - ramps, ramps.T, ramps, ramps, ramps]).reshape(2, 3, 16, 16)
    arrays = {"image": array.astype(np.float32)}
    packing = jpeg(arrays)
    assert packing is not None
    for some in (arrays, {"image": arrays["image"][:1]}):
        back = packing.unpack(packing.pack(some))["image"]
        assert back.shape == some["image"].shape
        assert back.dtype == some["image"].dtype
        assert np.abs(back - some["image"]).mean() <= 0.05
    assert jpeg({"values": np.zeros((2, 16, 52), np.float32)}) is None
    assert jpeg({"image": arrays["image"], "mask": arrays["image"]}) is None
