"""What a device knows of its uplink: how fast, how sure, how old, and when to ask.

Without probes a policy that left a bad link never learns that it is good again. A sending that
takes longer than it should is news as well: the link is at most that fast.
"""

import math

import msgspec

from aimass_shared.planning.profiles import Link

BANDWIDTH_GAIN, RTT_GAIN, SPREAD_GAIN = 0.4, 0.2, 0.1
COLLAPSE = 0.25
"""Share of the bandwidth that was there before, below which the link broke down."""
PRIOR_S = 12.0
"""A link that nobody knows breaks down once in so long."""
RENEWED = math.log(2.0)
"""A change of the bandwidth's logarithm from which on what was before is forgotten."""
LEAST_MBIT_S = 1e-4
FIRST_SPREAD = 0.3


class Probing(msgspec.Struct, frozen=True, kw_only=True):
    """When to send bytes only to see how fast they go.

    Attributes:
        every_s: time without other sendings until one is due.
        take_ms: what a probe may take by the last estimate; its size follows from that.
        least_bytes, most_bytes: limits of its size.
    """

    every_s: float = 0.25
    take_ms: float = 5.0
    least_bytes: int = 512
    most_bytes: int = 8192


class UplinkEstimate:
    """The uplink, from what was sent on it. Times are seconds of a monotonic clock.

    A sending starts, and then drains or is given up; sendings do not overlap. When the other side
    has said so, its bytes have arrived.
    """

    def __init__(self, first: Link, now: float, probing: Probing | None = None) -> None:
        """Start from a guess; without `probing` no probe is ever due."""
        self._bandwidth = max(first.bandwidth_mbit_s, LEAST_MBIT_S)
        self._rtt_ms = first.rtt_ms
        self._loss = first.loss
        self._variance = FIRST_SPREAD**2
        self._probing = probing
        self._seen_at = self._tried_at = self._began_at = now
        self._sending: tuple[int, float] | None = None
        self._collapses = 0
        self._measured = self._stuck = False

    def started(self, sent_bytes: int, now: float) -> None:
        """A sending begins."""
        self._sending = (sent_bytes, now)
        self._tried_at = now
        self._stuck = False  # asked: until the answer is there, asking again says nothing more

    def drained(self) -> None:
        """The last byte of the sending has left; another may start before `arrived` tells more."""
        self._sending = None

    def arrived(
        self, sent_bytes: int, took_ms: float, *, now: float, rtt_ms: float | None = None
    ) -> None:
        """The bytes of a sending are there; one of no bytes says nothing of the bandwidth.

        Args:
            sent_bytes: how many.
            took_ms: from the first byte to the last.
            now: when that became known.
            rtt_ms: what an answer took beside that, if it is known.
        """
        if sent_bytes > 0:
            self._learn(8e-3 * sent_bytes / max(took_ms, 1e-3))
        if rtt_ms is not None:
            self._rtt_ms += RTT_GAIN * (rtt_ms - self._rtt_ms)
        self._seen_at = now

    def given_up(self, now: float) -> None:
        """The sending was ended before its bytes arrived: the link is at most that fast."""
        left = self._at_most(now)
        self._collapses += left < COLLAPSE * self._bandwidth
        self._bandwidth = left
        self._sending = None
        self._tried_at = now

    def link(self, now: float) -> Link:
        """The link as it is seen now; a sending that is overdue counts against it."""
        return Link(
            bandwidth_mbit_s=self._at_most(now),
            rtt_ms=self._rtt_ms,
            loss=self._loss,
            spread=math.sqrt(self._variance),
            age_s=max(0.0, now - self._seen_at),
            hazard_per_s=(1.0 + self._collapses) / (PRIOR_S + now - self._began_at),
        )

    def backlog_ms(self, waiting_bytes: float, now: float) -> float:
        """Time until the uplink is free, from the bytes that wait behind the sending."""
        bandwidth = self._at_most(now)
        left_ms = 0.0
        if self._sending is not None:
            sent_bytes, since = self._sending
            left_ms = max(0.0, 8e-3 * sent_bytes / bandwidth - (now - since) * 1e3)
        return left_ms + 8e-3 * waiting_bytes / bandwidth

    def probe_due(self, now: float) -> int:
        """Bytes of a probe to send now; 0 while there is no need."""
        if self._probing is None or self._sending is not None:
            return 0
        probing = self._probing
        if now - self._tried_at < probing.every_s and not self._stuck:
            return 0
        wanted = int(self._bandwidth * probing.take_ms * 125)
        return min(max(wanted, probing.least_bytes), probing.most_bytes)

    def _learn(self, bandwidth: float) -> None:
        off = math.log(bandwidth / self._bandwidth)
        # What was stuck says how long the link was away, not how fast it is now that it is back.
        self._stuck = off < math.log(COLLAPSE) and self._measured
        self._collapses += self._stuck
        if abs(off) > RENEWED or not self._measured:
            self._bandwidth = bandwidth
            self._measured = True
            return
        self._bandwidth *= math.exp(BANDWIDTH_GAIN * off)
        self._variance += SPREAD_GAIN * (off * off - self._variance)

    def _at_most(self, now: float) -> float:
        """The bandwidth, or less where the sending is overdue."""
        if self._sending is None:
            return self._bandwidth
        sent_bytes, since = self._sending
        elapsed_ms = (now - since) * 1e3
        if elapsed_ms <= 0 or sent_bytes <= 0:
            return self._bandwidth
        return max(LEAST_MBIT_S, min(self._bandwidth, 8e-3 * sent_bytes / elapsed_ms))
