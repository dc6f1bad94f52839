"""What a device learns: its own speed from a few requests, its link also when nobody sends."""

import numpy as np
import pytest

from aimass_shared.planning import Link, Probing, UplinkEstimate
from aimass_shared.planning.corrections import Corrections

PROFILE_MS = np.array([10.0, 4.0, 2.0, 1.0])


def taught(runs: int, *, slowdown: float, uneven: float = 0.0, noise: float = 0.05) -> Corrections:
    random = np.random.default_rng(3)
    true = slowdown * np.exp(uneven * random.standard_normal(4))
    corrections = Corrections(1.0, np.full(4, 0.05))
    for run in range(runs):
        row = run % 4
        took = PROFILE_MS[row] * true[row] * np.exp(noise * random.standard_normal())
        corrections.add(row, PROFILE_MS[row], measured_ms=float(took))
    return corrections


def test_one_run_teaches_a_new_device_for_all_candidates() -> None:
    assert taught(1, slowdown=10).slowdown == pytest.approx([10] * 4, rel=0.2)


def test_fifty_runs_teach_each_candidates_own_speed() -> None:
    random = np.random.default_rng(3)
    true = 10 * np.exp(0.2 * random.standard_normal(4))
    assert taught(50, slowdown=10, uneven=0.2).slowdown == pytest.approx(true, rel=0.1)


def test_the_spread_is_that_of_the_runs() -> None:
    assert taught(300, slowdown=3, noise=0.2).spread == pytest.approx([0.2] * 4, rel=0.4)


def test_a_device_that_gets_slower_is_followed() -> None:
    corrections = taught(100, slowdown=10)
    for _ in range(60):
        corrections.add(3, 1.0, measured_ms=20.0)
    assert corrections.slowdown[3] == pytest.approx(20, rel=0.1)


def test_times_that_are_none_teach_nothing() -> None:
    corrections = Corrections(2.0, np.full(2, 0.05))
    corrections.add(0, 0.0, measured_ms=5.0)
    corrections.add(1, 5.0, measured_ms=0.0)
    assert corrections.slowdown.tolist() == [2.0, 2.0]


def sent(uplink: UplinkEstimate, size: int, *, mbit_s: float, at: float) -> float:
    """Send some bytes at a speed; when they are through."""
    took_ms = 8e-3 * size / mbit_s
    uplink.started(size, at)
    uplink.drained()
    uplink.arrived(size, took_ms, now=at + took_ms / 1e3, rtt_ms=25.0)
    return at + took_ms / 1e3


def test_the_bandwidth_is_that_of_what_was_sent() -> None:
    uplink, at = UplinkEstimate(Link(bandwidth_mbit_s=1, rtt_ms=100), 0.0), 0.0
    for _ in range(30):
        at = sent(uplink, 20_000, mbit_s=8, at=at)
    link = uplink.link(at)
    assert link.bandwidth_mbit_s == pytest.approx(8)
    assert link.rtt_ms == pytest.approx(25, rel=0.01)
    assert link.spread < 0.1
    assert uplink.link(at + 3).age_s == pytest.approx(3)


def test_a_sending_that_is_overdue_is_news() -> None:
    uplink = UplinkEstimate(Link(bandwidth_mbit_s=8), 0.0)
    at = sent(uplink, 20_000, mbit_s=8, at=0.0)
    uplink.started(20_000, at)
    assert uplink.link(at + 0.01).bandwidth_mbit_s == pytest.approx(8)
    assert uplink.backlog_ms(0, at + 0.01) == pytest.approx(10)
    assert uplink.link(at + 0.2).bandwidth_mbit_s == pytest.approx(0.8)
    uplink.given_up(at + 0.4)
    assert uplink.link(at + 0.4).bandwidth_mbit_s == pytest.approx(0.4)


def test_a_link_that_broke_down_is_trusted_less() -> None:
    uplink = UplinkEstimate(Link(bandwidth_mbit_s=8), 0.0)
    at = sent(uplink, 20_000, mbit_s=8, at=0.0)
    before = uplink.link(at).hazard_per_s
    at = sent(uplink, 20_000, mbit_s=0.2, at=at)
    assert uplink.link(at).hazard_per_s > 1.5 * before


def test_a_quiet_link_is_probed_and_small_when_it_is_slow() -> None:
    uplink = UplinkEstimate(Link(bandwidth_mbit_s=8), 0.0, Probing(every_s=0.5))
    assert uplink.probe_due(0.1) == 0
    assert uplink.probe_due(0.6) == 5000
    at = sent(uplink, 5000, mbit_s=8, at=0.6)
    uplink.started(5000, at)
    assert uplink.probe_due(at + 5.0) == 0, "one is on its way"
    uplink.drained()
    uplink.arrived(5000, 400.0, now=at + 0.4)
    assert uplink.probe_due(at + 0.4) == Probing().least_bytes, (
        "what was stuck is asked again at once"
    )
    uplink.started(512, at + 0.4)
    uplink.drained()
    assert uplink.probe_due(at + 0.5) == 0, "but once: the answer is on its way"
    assert uplink.probe_due(at + 1.0) > 0


def test_without_probing_nothing_is_ever_due() -> None:
    assert UplinkEstimate(Link(bandwidth_mbit_s=8), 0.0).probe_due(1e6) == 0


def test_a_sending_of_nothing_says_nothing_of_the_bandwidth() -> None:
    uplink = UplinkEstimate(Link(bandwidth_mbit_s=8), 0.0)
    uplink.started(0, 0.0)
    assert uplink.link(1.0).bandwidth_mbit_s == 8
    uplink.drained()
    uplink.arrived(0, 1.0, now=1.0)
    assert (uplink.link(1.0).bandwidth_mbit_s, uplink.link(1.0).age_s) == (8, 0)
