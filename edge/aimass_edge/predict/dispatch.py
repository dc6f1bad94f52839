"""Where a request is answered: here, in the cloud, or with an honest no, always by its deadline.

The choice itself is `deciding.decide`, pure; this measures what that needs, follows it, and falls
back to this device when the cloud does not keep its promise. Telemetry never comes here.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

import msgspec

from aimass_edge.capacity import Capacity, Lateness
from aimass_edge.config import CapacitySettings, Policy
from aimass_edge.predict.active import Active
from aimass_edge.predict.counts import Counts
from aimass_edge.predict.deciding import NONE, Decision, Load, Rules, decide
from aimass_edge.predict.opinions import SecondOpinions
from aimass_edge.predict.worker import Worker
from aimass_edge.runtime import Arrays, check_feeds, windows_of
from aimass_shared.errors import (
    CloudUnavailableError,
    DeadlineExceededError,
    ModelError,
    NoActiveModelError,
    OverloadedError,
    RequestError,
)
from aimass_shared.inference import InferRequest, InferResponse, check_outputs

# Kept back from a hand-off's budget, so that its failure can still be told within the deadline.
ANSWER_MS = 2.0
MAY_HAND_OFF = "may_hand_off"


class Cloud(Protocol):
    """The way to the full model in the cloud; see `aimass_edge.handoff.Handoff`."""

    @property
    def min_budget_ms(self) -> float:
        """Time below which a hand-off is not tried."""

    @property
    def reserve_ms(self) -> float:
        """Time that a hand-off leaves beyond what an answer from here needs."""

    @property
    def cascade_share(self) -> float:
        """Share of a classifier's answers that the policy "cascade" asks about."""

    def policy_of(self, model: str) -> Policy:
        """Who is asked first for a model."""

    def ready(self) -> bool:
        """Whether a request would be let through now."""

    def round_trip_ms(self) -> float:
        """How long an answer is expected to take."""

    async def infer(self, request: InferRequest, budget_ms: float) -> InferResponse:
        """Answer within the budget.

        Raises:
            CloudUnavailableError: no usable answer in time.
        """


class Errand(msgspec.Struct, frozen=True, eq=False):
    """A request that was found valid: what it can run on, when it came and must be done.

    `ladder` has the slices that are loaded, the active one first and narrower ones after it.
    """

    request: InferRequest
    ladder: tuple[Active, ...]
    feeds: Arrays
    start: float
    end: float

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep all its slices open for as long as the block runs."""
        with ExitStack() as stack:
            for active in self.ladder:
                stack.enter_context(active.in_use())
            yield


class Workbench(msgspec.Struct, frozen=True, eq=False):
    """What telemetry and requests share: one worker, one account, one clock, one set of counts."""

    capacity: Capacity
    worker: Worker
    counts: Counts
    clock: Callable[[], float]

    def done_ms(self, start: float) -> float:
        """Time since `start`, which is also noted as a latency of this device."""
        took_ms = (self.clock() - start) * 1e3
        self.capacity.latencies.add(took_ms)
        return took_ms


class Dispatch:
    """Answers requests; `find` gives the slices that a model and a version name, widest first."""

    def __init__(
        self,
        bench: Workbench,
        settings: CapacitySettings,
        *,
        cloud: Cloud | None,
        find: Callable[[str, str], tuple[Active, ...]],
    ) -> None:
        self._bench = bench
        self._capacity = bench.capacity
        self._clock = bench.clock
        self.counts = bench.counts
        self._settings = settings
        self._cloud = cloud
        self._find = find
        self._lateness = Lateness()
        self._opinions = SecondOpinions(cloud.cascade_share if cloud else 0.0)

    async def answer(self, request: InferRequest) -> InferResponse:
        """Answer a request, and count how it ended; see `Predictor.infer`."""
        self.counts.requests += 1
        with self._counted():
            errand = self._errand(request)
            with errand.in_use():
                return await self._serve(errand)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count how a request ends that does not end with an answer."""
        try:
            yield
        except DeadlineExceededError:
            self.counts.late += 1
            raise
        except (OverloadedError, CloudUnavailableError, NoActiveModelError):
            self.counts.refused += 1
            raise
        except RequestError:
            self.counts.invalid += 1
            raise
        except ModelError:
            self.counts.failed += 1
            self.counts.model_failures += 1
            raise
        except BaseException:
            self.counts.failed += 1
            raise

    def _errand(self, request: InferRequest) -> Errand:
        start = self._clock()
        ladder = self._find(request.model, request.version)
        session = ladder[0].session
        check_feeds(session.inputs, request.inputs)
        check_outputs(request, tuple(spec.name for spec in session.outputs))
        deadline_ms = request.deadline_ms
        if deadline_ms is None:
            deadline_ms = self._settings.default_deadline_ms
        return Errand(request, ladder, request.inputs, start, start + deadline_ms / 1e3)

    async def _serve(self, errand: Errand) -> InferResponse:
        decision = self._decide(errand, may_hand_off=_may_hand_off(errand.request))
        if decision.place == "cloud":
            return await self._hand_off(errand, decision)
        if decision.place == "local":
            answer = await self._run_here(errand, decision)
            better = await self._asked_again(errand, errand.ladder[decision.rung], answer)
            return better or self._answered(decision, answer)
        raise self._refusal(errand, decision)

    def _answered(self, decision: Decision, answer: InferResponse) -> InferResponse:
        self.counts.answered += 1
        self.counts.narrowed += decision.rung > 0
        return answer

    async def _asked_again(
        self, errand: Errand, active: Active, answer: InferResponse
    ) -> InferResponse | None:
        """The cloud's answer in the place of one that is unsure, if the policy says so."""
        cloud = self._cloud
        if cloud is None or cloud.policy_of(errand.request.model) != "cascade":
            return None
        budget_ms = self._left_ms(errand) - self._reserve_ms
        there_is_time = budget_ms >= max(cloud.min_budget_ms, cloud.round_trip_ms())
        if not (there_is_time and cloud.ready() and _may_hand_off(errand.request)):
            return None
        if not self._opinions.wanted(active, answer.outputs):
            return None
        self.counts.asked_again += 1
        try:
            told = await cloud.infer(_whole(errand.request), budget_ms)
        except CloudUnavailableError:
            self.counts.hand_offs_failed += 1
            return None
        self._opinions.learn(active, answer.outputs, told.outputs)
        return self._handed_off(errand, told)

    async def _run_here(self, errand: Errand, decision: Decision) -> InferResponse:
        active = errand.ladder[decision.rung]
        outputs = await self._bench.worker.submit(
            active, errand.feeds, telemetry=False, remaining_s=errand.end - self._clock()
        )
        manifest = active.manifest
        return InferResponse(
            model=manifest.model,
            version=manifest.release,
            id=errand.request.id,
            outputs=outputs,
            parameters={
                "place": "local",
                "service_ms": self._bench.done_ms(errand.start),
                "slice": active.entry.spec.name,
            },
        )

    async def _hand_off(self, errand: Errand, decision: Decision) -> InferResponse:
        cloud = self._cloud
        if cloud is None:
            raise CloudUnavailableError("this device has no cloud to hand off to")
        budget_ms = self._budget_ms(errand, decision)
        until = self._clock() + budget_ms / 1e3
        try:
            answer = await cloud.infer(errand.request, budget_ms)
        except CloudUnavailableError as error:
            self.counts.hand_offs_failed += 1
            return await self._after_failure(errand, error, until)
        return self._handed_off(errand, answer)

    def _handed_off(self, errand: Errand, answer: InferResponse) -> InferResponse:
        self.counts.handed_off += 1
        service_ms = (self._clock() - errand.start) * 1e3
        told = {**answer.parameters, "place": "cloud", "service_ms": service_ms}
        return msgspec.structs.replace(answer, parameters=told)

    def _budget_ms(self, errand: Errand, decision: Decision) -> float:
        """What the cloud gets: what was decided, less what has passed since then."""
        if decision.rung == NONE:
            return self._left_ms(errand) - ANSWER_MS
        kept_ms = self._needs_ms(errand)[decision.rung] + self._reserve_ms
        return min(decision.budget_ms, self._left_ms(errand) - kept_ms)

    @property
    def _reserve_ms(self) -> float:
        """What is kept beyond the need of an answer from here: as set, more if it did not do."""
        return max(self._cloud.reserve_ms if self._cloud else 0.0, self._lateness.ms)

    async def _after_failure(
        self, errand: Errand, error: CloudUnavailableError, until: float
    ) -> InferResponse:
        """What can still be done here is done here, by the widest slice that there is time for.

        How much later that was than planned is learned where the cloud took all of its time.
        """
        is_over, needs_ms = self._clock() >= until, self._needs_ms(errand)
        decision = self._decide(errand, may_hand_off=False)
        try:
            if decision.place != "local":
                raise error
            return self._answered(decision, await self._run_here(errand, decision))
        finally:
            if is_over:
                planned_ms = needs_ms[max(0, decision.rung)]
                self._lateness.add((self._clock() - until) * 1e3 - planned_ms)

    def _decide(self, errand: Errand, *, may_hand_off: bool) -> Decision:
        now, settings = self._clock(), self._settings
        cloud = self._cloud if may_hand_off else None
        load = Load(
            remaining_ms=self._left_ms(errand),
            queued=self._capacity.queued,
            backlog_ms=self._capacity.backlog_ms(now),
            services_ms=self._services_ms(errand),
            cloud_ready=cloud is not None and cloud.ready(),
            cloud_ms=cloud.round_trip_ms() + ANSWER_MS if cloud else 0.0,
        )
        rules = Rules(
            policy=cloud.policy_of(errand.request.model) if cloud else "never-leave-site",
            queue_limit=settings.queue_limit,
            safety=settings.safety,
            min_budget_ms=cloud.min_budget_ms if cloud else 0.0,
            reserve_ms=self._reserve_ms,
        )
        return decide(load, rules)

    def _services_ms(self, errand: Errand) -> tuple[float, ...]:
        now = self._clock()
        windows = windows_of(errand.ladder[0].session.inputs, errand.feeds)
        return tuple(self._capacity.times.ms(one.key, windows, now) for one in errand.ladder)

    def _needs_ms(self, errand: Errand) -> list[float]:
        """Time that an answer by each slice needs from now on."""
        backlog_ms = self._capacity.backlog_ms(self._clock())
        return [(backlog_ms + ms) * self._settings.safety for ms in self._services_ms(errand)]

    def _refusal(self, errand: Errand, decision: Decision) -> OverloadedError:
        deadline_ms = (errand.end - errand.start) * 1e3
        return OverloadedError(
            f"{decision.reason}: {self._capacity.queued} requests wait, this one would be done in"
            f" {decision.predicted_ms:.1f} ms, its deadline is {deadline_ms:.0f} ms; send fewer or"
            " allow more time",
            retry_after_s=self._capacity.backlog_ms(self._clock()) / 1e3,
        )

    def _left_ms(self, errand: Errand) -> float:
        return (errand.end - self._clock()) * 1e3


def _whole(request: InferRequest) -> InferRequest:
    """Asking for all outputs: what is learned from is not always what the caller wants."""
    return msgspec.structs.replace(request, outputs=())


def _may_hand_off(request: InferRequest) -> bool:
    """A request for one release stays here: the cloud answers with its newest."""
    return not request.version and bool(request.parameters.get(MAY_HAND_OFF, True))
