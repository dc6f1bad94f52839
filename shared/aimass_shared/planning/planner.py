"""The planner on the device: one choice for each request, in well under a millisecond.

A choice maximises accuracy times the probability to be in time, less what it takes from those that
come after, by the prices of edge and uplink (see `prices`).
"""

from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np

from aimass_shared.planning.corrections import Corrections
from aimass_shared.planning.prediction import NEVER_MS, Costs, Floats, Prediction, predict
from aimass_shared.planning.prices import FREE, Prices, cost, given_ms, leant, prices
from aimass_shared.planning.profiles import Backlog, Candidate, Link
from aimass_shared.planning.table import PlanTable
from aimass_shared.planning.uplink import Probing, UplinkEstimate

Why = Literal["best", "cheaper", "shed"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How the planner behaves; each part can be left out, to see what it is worth.

    Attributes:
        max_loss: accuracy budget; candidates that lose more are never chosen.
        least_worth: expected goodput below which a request is shed (or answered from stale data).
        priced: whether requests that come after count.
        busy: share of edge and uplink that prices aim at.
        in_time: whether the probability to be in time counts; otherwise the fastest is taken.
        queues: whether what is ahead counts.
        probing: when to ask the link; None never.
        mean_of: the gap between arrivals is a mean over about so many.
    """

    max_loss: float = 1.0
    least_worth: float = 0.2
    priced: bool = True
    busy: float = 0.95
    in_time: bool = True
    queues: bool = True
    probing: Probing | None = Probing()
    mean_of: int = 60


class Choice(msgspec.Struct, frozen=True):
    """What to do with a request.

    Attributes:
        candidate: the plan; None is shed, or a stale answer.
        row: of the candidate in the table, -1 for none.
        why: "best" of all in itself, "cheaper" as the prices make it, or "shed".
        on_time: probability to be in time. total_ms: expected time to the answer; of a request
            that is shed, the least that it would have taken.
        edge_ms, uplink_ms: its own parts, to keep account of what is ahead of others.
        prices: expected goodput that the next millisecond of edge and uplink costs others.
    """

    candidate: Candidate | None
    row: int
    why: Why
    on_time: float = 0.0
    total_ms: float = 0.0
    edge_ms: float = 0.0
    uplink_ms: float = 0.0
    prices: Prices = FREE


class Planner:
    """Chooses, and learns from what became of it. Times are seconds of a monotonic clock.

    Attributes:
        table: the candidates. costs: the same as columns, with spreads as they were seen here.
        corrections: how this device differs from the profiles.
        uplink: what is known of the link; whoever sends tells it.
    """

    def __init__(
        self,
        table: PlanTable,
        *,
        slowdown: float,
        link: Link,
        now: float,
        policy: Policy | None = None,
    ) -> None:
        """Start from guesses.

        Args:
            table: the candidates.
            slowdown: how many times slower than the reference this device may be.
            link: the uplink as it may be.
            now: the time.
            policy: how to behave.
        """
        self._policy = policy or Policy()
        self.table = table
        self.costs = Costs.of(table.profiles)
        self._allowed = np.array([one.loss <= self._policy.max_loss for one in table.profiles])
        self.corrections = Corrections(slowdown, self.costs.edge_spread)
        self.uplink = UplinkEstimate(link, now, self._policy.probing)
        self._gaps = 0
        self._gap_ms = float("inf")
        self._last: float | None = None
        self._prices = self._base = FREE
        self._ahead = (0.0, 0.0)
        self._deadline_ms = 1.0

    def choose(self, remaining_ms: float, backlog: Backlog, now: float) -> Choice:
        """The plan of a request that arrives now; counts it in the rate.

        Args:
            remaining_ms: time until its deadline.
            backlog: what is ahead of it.
            now: the time.
        """
        self._arrived(now)
        found = self._predicted(remaining_ms, backlog, now)
        self._prices = self._asked(remaining_ms, backlog, now)
        worth = self._worth(found)
        return self._taken(found, worth, worth)

    def again(self, row: int, remaining_ms: float, now: float) -> Choice:
        """The slice of a request whose turn on the edge has come: the one chosen, or a faster one.

        What was chosen on arrival may have become too slow. A slower one is never taken, since
        those that wait were promised the time; nor is one shed to save time, since it waited.

        Args:
            row: of the candidate that was chosen, which runs here as a whole.
            remaining_ms: time until its deadline.
            now: the time.
        """
        found = self._predicted(remaining_ms, Backlog(), now)
        worth = self._worth(found)
        faster = ~self.costs.goes_up & (found.edge_ms <= found.edge_ms[row])
        chosen = self._taken(found, worth, np.where(faster, worth, 0.0))
        if chosen.candidate is None and worth[row] >= self._policy.least_worth:
            return self._choice(found, row, "best")
        return chosen

    def ran(self, row: int, measured_ms: float) -> None:
        """The edge part of a candidate took so long."""
        self.corrections.add(row, float(self.costs.edge_ms[row]), measured_ms=measured_ms)
        self.costs = replace(self.costs, edge_spread=self.corrections.spread)

    def _predicted(self, remaining_ms: float, backlog: Backlog, now: float) -> Prediction:
        return predict(
            self.costs,
            self.corrections.slowdown,
            link=self.uplink.link(now),
            backlog=backlog if self._policy.queues else Backlog(),
            remaining_ms=remaining_ms,
        )

    def _worth(self, found: Prediction) -> Floats:
        """Expected goodput of each, 0 where the budget forbids it."""
        if self._policy.in_time:
            return np.where(self._allowed, self.costs.quality * found.on_time, 0.0)
        return np.where(self._allowed, 1.0 / (1.0 + found.total_ms), 0.0)

    def _arrived(self, now: float) -> None:
        if self._last is not None:
            gap_ms = max(now - self._last, 0.0) * 1e3
            self._gaps = min(self._gaps + 1, self._policy.mean_of)
            before = 0.0 if self._gaps == 1 else self._gap_ms
            self._gap_ms = before + (gap_ms - before) / self._gaps
        self._last = now

    def _asked(self, remaining_ms: float, backlog: Backlog, now: float) -> Prices:
        """The prices now; none where all came at one instant, or where it is too late anyway."""
        rate_known = self._gaps and self._gap_ms > 0
        self._base = FREE
        if not self._policy.priced or not rate_known or remaining_ms <= 0:
            return FREE
        free = self._predicted(remaining_ms, Backlog(), now)
        ahead = (backlog.edge_ms, backlog.uplink_ms)
        given = [
            given_ms(self._gap_ms, one, deadline_ms=remaining_ms, busy=self._policy.busy)
            for one in ahead
        ]
        takes = np.stack((free.edge_ms * self.costs.queues, free.uplink_ms))
        found = prices(self._worth(free), takes, np.array(given))
        self._base, self._ahead, self._deadline_ms = found, ahead, remaining_ms
        return Prices(
            *(leant(price, one, remaining_ms) for price, one in zip(found, ahead, strict=True))
        )

    def _taken(self, found: Prediction, worth: Floats, allowed: Floats) -> Choice:
        """The best of what is allowed, less its price; `worth` is of all."""
        edge, uplink = found.edge_ms * self.costs.queues, np.minimum(found.uplink_ms, NEVER_MS)
        (base, ahead), deadline_ms = (self._base, self._ahead), self._deadline_ms
        asked = cost(base.edge, ahead[0], edge, deadline_ms=deadline_ms)
        asked = asked + cost(base.uplink, ahead[1], uplink, deadline_ms=deadline_ms)
        net = np.where(allowed > 0, allowed - asked, -np.inf)
        row = int(net.argmax())
        if allowed[row] < self._policy.least_worth or net[row] <= 0:
            return Choice(
                None, -1, "shed", total_ms=float(found.total_ms.min()), prices=self._prices
            )
        return self._choice(found, row, "best" if worth[row] >= worth.max() else "cheaper")

    def _choice(self, found: Prediction, row: int, why: Why) -> Choice:
        expected = found.row(row)
        return Choice(
            self.table.profiles[row].candidate,
            row,
            why,
            on_time=expected.on_time,
            total_ms=expected.total_ms,
            edge_ms=expected.edge_ms,
            uplink_ms=expected.uplink_ms,
            prices=self._prices,
        )
