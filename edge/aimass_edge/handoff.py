"""Handing a request to the cloud: one HTTPS call inside a hard budget, behind a circuit breaker.

Whether to hand off and what to do when it fails is `predict`'s choice (`predict.deciding`); this is
only the way there. Every failure is one error, `CloudUnavailableError`, because to the device
they are all the same: no answer from there in time.
"""

import logging
import random
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import final

import anyio
import anyio.abc
import httpx
import msgspec

from aimass_edge.capacity import Estimate
from aimass_edge.config import HandoffSettings, Policy
from aimass_shared.errors import AimassError, CloudUnavailableError, InvalidSettingError
from aimass_shared.inference import (
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    WantedOutput,
    decode_response,
    encode_request,
)

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 32 << 20
MAX_CONNECTIONS = 16
KEEP_ALIVE_S = 60.0
JITTER = (0.5, 1.0)
MOST_HOLD_S = 60.0
"""A cloud may ask for more patience than any plant has."""
_JITTER = random.SystemRandom()


class Breaker:
    """Stops asking a cloud that does not answer, and lets one probe at a time find it again.

    Pure: `now` is seconds of a monotonic clock. Closed until `failures_to_open` failures in a row;
    then open for `retry_after_s`; then half open: one caller goes through, the rest wait for what
    becomes of it. A cloud that says when to come back is not asked before.
    """

    def __init__(self, failures_to_open: int, retry_after_s: float) -> None:
        self._failures_to_open = failures_to_open
        self._retry_after_s = retry_after_s
        self._failures = 0
        self._ask_from = 0.0
        self._held_until = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are held back, save for probes."""
        return self._failures >= self._failures_to_open

    def lets_through(self, now: float) -> bool:
        """Whether `acquire` would succeed."""
        if now < self._held_until:
            return False
        return not self.is_open or (now >= self._ask_from and not self._probing)

    def acquire(self, now: float) -> bool:
        """Ask to make a call; a caller that was let through must say how it ended."""
        if not self.lets_through(now):
            return False
        self._probing = self.is_open
        return True

    def succeeded(self) -> None:
        """The call was answered: close."""
        self._failures = 0
        self._probing = False

    def failed(self, now: float, *, jitter: float = 1.0, hold_s: float = 0.0) -> None:
        """The call was not answered; a failed probe opens for another while.

        Args:
            now: when.
            jitter: factor of the while, so that a fleet does not come back in one instant.
            hold_s: for how long the cloud itself said not to ask.
        """
        self._failures += 1
        self._probing = False
        self._ask_from = now + jitter * self._retry_after_s
        self._held_until = max(self._held_until, now + hold_s)

    def abandoned(self) -> None:
        """The caller went away before the call ended: nothing was learnt."""
        self._probing = False


class _BusyError(CloudUnavailableError):
    """The cloud says for how long it does not want to be asked."""

    def __init__(self, detail: str, hold_s: float) -> None:
        super().__init__(detail)
        self.hold_s = hold_s


class _Call:
    """A hand-off that is under way in a task of its own, and what came of it."""

    def __init__(self, request: InferRequest, budget_ms: float) -> None:
        self.request, self.budget_ms = request, budget_ms
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.response: InferResponse | None = None
        self.error: Exception | None = None


@final
class Handoff:
    """The cloud's full model as this device reaches it: `POST {cloud}/v2/models/{model}/infer`."""

    def __init__(
        self,
        cloud: str,
        settings: HandoffSettings,
        *,
        bearer: Callable[[], str],
        ca_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; the client is made by `async with`.

        Args:
            cloud: base URL of the coordinator.
            settings: limits of a hand-off.
            bearer: makes the token of each request, "" for none.
            ca_file: the only CA that is trusted (PEM); None trusts those of the system.
            clock: monotonic seconds.
        """
        self._url = cloud.rstrip("/")
        self._settings = settings
        self._bearer = bearer
        self._ca_file = ca_file
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._round_trip = Estimate(float(settings.min_budget_ms))
        self.breaker = Breaker(settings.failures_to_open, settings.retry_after_ms / 1e3)

    async def __aenter__(self) -> "Handoff":
        """Make the client.

        Raises:
            InvalidSettingError: the CA file is missing or no certificate.
        """
        # Time is bounded by the whole request's budget, which a read timeout cannot do: a cloud
        # that sends one byte a second never runs into one. Proxies of the environment are not for
        # this: they would add their own time to every deadline.
        self._client = httpx.AsyncClient(
            verify=self._trust(),
            timeout=None,  # noqa: S113 - bounded by the budget, see above
            trust_env=False,
            limits=httpx.Limits(
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEP_ALIVE_S,
            ),
        )
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up what is under way, close the connections."""
        tasks, self._tasks = self._tasks, None
        client, self._client = self._client, None
        try:
            if tasks is not None:
                tasks.cancel_scope.cancel()
                await tasks.__aexit__(None, None, None)
        finally:
            if client is not None:
                await client.aclose()

    @property
    def min_budget_ms(self) -> float:
        """Time below which a hand-off is not tried."""
        return float(self._settings.min_budget_ms)

    @property
    def reserve_ms(self) -> float:
        """Time that a hand-off leaves beyond what an answer from here needs."""
        return float(self._settings.reserve_ms)

    @property
    def cascade_share(self) -> float:
        """Share of a classifier's answers that the policy "cascade" asks about."""
        return self._settings.cascade_share

    def policy_of(self, model: str) -> Policy:
        """Who is asked first for a model."""
        return self._settings.policies.get(model, self._settings.policy)

    def ready(self) -> bool:
        """Whether a request would be let through now."""
        return (
            self._settings.enabled
            and self._client is not None
            and self.breaker.lets_through(self._clock())
        )

    def round_trip_ms(self) -> float:
        """How long an answer is expected to take, from request to answer."""
        return self._round_trip.ms(self._clock())

    async def infer(self, request: InferRequest, budget_ms: float) -> InferResponse:
        """Let the cloud answer within `budget_ms`, whatever it does.

        When the time is over this returns at once: the connection is ended by a task of its own,
        since a caller has no time left to wait for that.

        Raises:
            CloudUnavailableError: no usable answer in time; the detail says why.
        """
        tasks, client = self._tasks, self._client
        if tasks is None or client is None or not self.breaker.acquire(self._clock()):
            raise CloudUnavailableError(f"hand-off to {self._url} is held back after failures")
        start, call = self._clock(), _Call(request, budget_ms)
        tasks.start_soon(self._carry_out, call, client)
        try:
            with anyio.move_on_after(budget_ms / 1e3):
                await call.done.wait()
        except BaseException:
            self.breaker.abandoned()
            raise
        finally:
            call.scope.cancel()
        if call.response is not None:
            self._succeeded(start)
            return call.response
        error = call.error or TimeoutError()
        raise self._failure(error, start, budget_ms) from error

    async def _carry_out(self, call: _Call, client: httpx.AsyncClient) -> None:
        with call.scope:
            try:
                call.response = await self._ask(client, call.request, call.budget_ms)
            except (httpx.HTTPError, AimassError) as error:
                call.error = error
            except Exception as error:
                log.exception("hand-off to %s failed", self._url)
                call.error = error
        call.done.set()

    async def _ask(
        self, client: httpx.AsyncClient, request: InferRequest, budget_ms: float
    ) -> InferResponse:
        body, headers = encode_request(_for_cloud(request, budget_ms))
        token = self._bearer()
        if token:
            headers = {**headers, "authorization": f"Bearer {token}"}
        url = f"{self._url}/v2/models/{request.model}/infer"
        async with client.stream("POST", url, content=body, headers=headers) as answer:
            raw = await _read(answer)
            if answer.status_code != httpx.codes.OK:
                hold_s = _retry_after_s(answer.headers.get("retry-after", ""))
                raise _BusyError(_told(answer.status_code, raw), hold_s)
            length = answer.headers.get(HEADER_LENGTH)
        return decode_response(raw, int(length) if length and length.isdigit() else None)

    def _succeeded(self, start: float) -> None:
        if self.breaker.is_open:
            log.info("the cloud answers again: %s", self._url)
        now = self._clock()
        self.breaker.succeeded()
        self._round_trip.add((now - start) * 1e3, now)

    def _failure(self, error: Exception, start: float, budget_ms: float) -> CloudUnavailableError:
        now = self._clock()
        took_ms = (now - start) * 1e3
        was_open = self.breaker.is_open
        hold_s = error.hold_s if isinstance(error, _BusyError) else 0.0
        self.breaker.failed(now, jitter=_JITTER.uniform(*JITTER), hold_s=hold_s)
        if isinstance(error, TimeoutError):
            self._round_trip.at_least(took_ms, now)
            why = f"no answer within {budget_ms:.0f} ms"
        else:
            why = error.detail if isinstance(error, AimassError) else _named(error)
        if self.breaker.is_open and not was_open:
            log.warning("hand-off to %s is held back: %s", self._url, why)
        return CloudUnavailableError(f"hand-off to {self._url} failed: {why}")

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise InvalidSettingError(f"CA file {self._ca_file} cannot be used: {error}") from error


def _for_cloud(request: InferRequest, budget_ms: float) -> InferRequest:
    """The request as the cloud gets it: its newest release, tensors as bytes, what time is left."""
    return msgspec.structs.replace(
        request,
        version="",
        deadline_ms=max(1, int(budget_ms)),
        outputs=tuple(WantedOutput(wanted.name) for wanted in request.outputs),
        binary_output=True,
        parameters={},
    )


async def _read(answer: httpx.Response) -> bytes:
    """The body, up to the limit."""
    parts = bytearray()
    async for part in answer.aiter_bytes():
        parts += part
        if len(parts) > MAX_ANSWER_BYTES:
            raise CloudUnavailableError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    return bytes(parts)


def _retry_after_s(text: str) -> float:
    """The header's seconds; 0 for none. Dates are not for machines whose clocks may be wrong."""
    return min(float(text), MOST_HOLD_S) if text.isdecimal() else 0.0


class _Problem(msgspec.Struct):
    error: str = ""
    code: str = ""


def _told(status: int, raw: bytes) -> str:
    """What an answer other than 200 says, in one line."""
    try:
        problem = msgspec.json.decode(raw, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    return f"HTTP {status} {problem.code} {problem.error[:200]}".strip()


def _named(error: Exception) -> str:
    """An httpx error in words; some of them have no text of their own."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
