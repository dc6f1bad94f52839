"""How much work this device can take: measured times, and the account of what is queued.

All of it is pure: times come in as arguments, in seconds of a monotonic clock. `predict` keeps one
`Capacity`; `handoff` keeps an `Estimate` of the cloud's round trip. Nothing here runs, sends or
waits; where a request goes is `predict.deciding`'s.
"""

from collections import deque

import msgspec

WEIGHT = 0.2
HALF_LIFE_S = 1.0
KEPT, HEADROOM = 0.99, 1.5
RECENT = 128
LATENCIES = 1024


class Estimate:
    """A moving average of durations that forgets a slow spell when nothing renews it.

    Without that, one bad spell is for ever: its average refuses all work, so nothing is measured
    again (an adaptive policy without probing lost 60 % of its goodput in the trace simulation). An
    average that is not renewed halves its distance to the fastest recent value every second.
    """

    def __init__(self, first_ms: float) -> None:
        self._mean_ms = first_ms
        self._fastest_ms = first_ms
        self._measured_at: float | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, measured_ms: float, now: float) -> None:
        """Take in one measurement; the first replaces the initial guess."""
        if self._measured_at is None:
            self._mean_ms = measured_ms
        else:
            self._mean_ms += WEIGHT * (measured_ms - self._mean_ms)
        self._recent.append(measured_ms)
        self._fastest_ms = min(self._recent)
        self._measured_at = now

    def at_least(self, ms: float, now: float) -> None:
        """Take in one that was given up after so long: a lower limit, no measurement.

        It raises what is expected now; what the fastest takes it does not change, so that a bad
        spell is forgotten even if nothing ever ended in it.
        """
        if ms > self.ms(now):
            self._mean_ms, self._measured_at = ms, now

    def ms(self, now: float) -> float:
        """What the next one is expected to take."""
        if self._measured_at is None:
            return self._mean_ms
        age = max(0.0, now - self._measured_at)
        above_ms = self._mean_ms - self._fastest_ms
        return float(self._fastest_ms + above_ms * 0.5 ** (age / HALF_LIFE_S))


class Lateness:
    """How much later than planned things were done on this device: the worst, slowly forgotten."""

    def __init__(self) -> None:
        self._worst_ms = 0.0

    def add(self, late_ms: float) -> None:
        """Take in one; early is not late."""
        self._worst_ms = max(late_ms, KEPT * self._worst_ms)

    @property
    def ms(self) -> float:
        """What to reckon with next time."""
        return HEADROOM * self._worst_ms


class ServiceTimes:
    """Expected run time of each slice by windows in a batch, which are counted in powers of two."""

    def __init__(self) -> None:
        self._estimates: dict[tuple[str, int], Estimate] = {}

    def add(self, name: str, windows: int, *, measured_ms: float, now: float) -> None:
        """Take in one run of a slice."""
        key = (name, _bucket(windows))
        self._estimates.setdefault(key, Estimate(measured_ms)).add(measured_ms, now)

    def ms(self, name: str, windows: int, now: float) -> float:
        """Expected time of one run; 0 for a slice that has never run.

        A batch size that has not been seen is scaled from the nearest that has: up in proportion,
        down not at all, so that the guess errs on the slow side.
        """
        bucket = _bucket(windows)
        sizes = [size for known, size in self._estimates if known == name]
        if not sizes:
            return 0.0
        nearest = min(sizes, key=lambda size: (abs(size - bucket), size))
        return self._estimates[name, nearest].ms(now) * max(1.0, bucket / nearest)

    def forget(self, name: str) -> None:
        """Drop a slice that does not run any more."""
        self._estimates = {key: e for key, e in self._estimates.items() if key[0] != name}


class Latencies:
    """Percentiles of the most recent latencies."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=LATENCIES)

    def add(self, ms: float) -> None:
        """Take in one latency."""
        self._recent.append(ms)

    def percentile(self, share: float) -> float:
        """Nearest-rank percentile, `share` from 0 to 1; 0 before the first latency."""
        if not self._recent:
            return 0.0
        ordered = sorted(self._recent)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Ticket(msgspec.Struct, eq=False):
    """One piece of work that was accepted: a run of a slice over some windows."""

    name: str
    windows: int
    started: float | None = None


class Capacity:
    """The account of what is queued and running, in predicted milliseconds.

    A ticket enters, starts and then either finishes (its time is learnt) or leaves (it was given
    up). Work is done one at a time.
    """

    def __init__(self) -> None:
        self.times = ServiceTimes()
        self.latencies = Latencies()
        self._open: dict[int, Ticket] = {}

    @property
    def queued(self) -> int:
        """Tickets that wait for the worker."""
        return sum(ticket.started is None for ticket in self._open.values())

    def enter(self, name: str, windows: int) -> Ticket:
        """Account for accepted work."""
        ticket = Ticket(name, windows)
        self._open[id(ticket)] = ticket
        return ticket

    def start(self, ticket: Ticket, now: float) -> None:
        """The worker takes the ticket up."""
        ticket.started = now

    def finish(self, ticket: Ticket, now: float) -> None:
        """The run ended well: learn its time, close the ticket."""
        if ticket.started is not None:
            took_ms = (now - ticket.started) * 1e3
            self.times.add(ticket.name, ticket.windows, measured_ms=took_ms, now=now)
        self.leave(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Close the ticket without learning from it; closing twice does nothing."""
        self._open.pop(id(ticket), None)

    def backlog_ms(self, now: float) -> float:
        """Predicted time until the worker is free for new work."""
        return sum(self._left_ms(ticket, now) for ticket in self._open.values())

    def running_s(self, now: float) -> float:
        """How long the run that is under way has taken; 0 where none is."""
        began = [one.started for one in self._open.values() if one.started is not None]
        return now - min(began) if began else 0.0

    def _left_ms(self, ticket: Ticket, now: float) -> float:
        whole = self.times.ms(ticket.name, ticket.windows, now)
        if ticket.started is None:
            return whole
        return max(0.0, whole - (now - ticket.started) * 1e3)


def _bucket(windows: int) -> int:
    """The power of two that `windows` is rounded up to: few enough sizes to learn each."""
    return 1 << max(0, windows - 1).bit_length()
