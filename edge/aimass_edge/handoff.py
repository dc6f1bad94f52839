"""Handing a request to the cloud: one HTTPS call inside a hard budget, behind a circuit breaker.

Whether to hand off and what to do when it fails is `predict`'s choice (`predict.deciding`); this is
only the way there. Every failure is one error, `CloudUnavailableError`, because to the device
they are all the same: no answer from there in time.
"""

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import final

import anyio
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


class Breaker:
    """Stops asking a cloud that does not answer, and lets one probe at a time find it again.

    Pure: `now` is seconds of a monotonic clock. Closed until `failures_to_open` failures in a row;
    then open for `retry_after_s`; then half open: one caller goes through, the rest wait for what
    becomes of it.
    """

    def __init__(self, failures_to_open: int, retry_after_s: float) -> None:
        self._failures_to_open = failures_to_open
        self._retry_after_s = retry_after_s
        self._failures = 0
        self._opened_at = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are held back, save for probes."""
        return self._failures >= self._failures_to_open

    def lets_through(self, now: float) -> bool:
        """Whether `acquire` would succeed."""
        waited = now - self._opened_at >= self._retry_after_s
        return not self.is_open or (waited and not self._probing)

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

    def failed(self, now: float) -> None:
        """The call was not answered; a failed probe opens for another while."""
        self._failures += 1
        self._probing = False
        self._opened_at = now

    def abandoned(self) -> None:
        """The caller went away before the call ended: nothing was learnt."""
        self._probing = False


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
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        client, self._client = self._client, None
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

        Raises:
            CloudUnavailableError: no usable answer in time; the detail says why.
        """
        client = self._client
        if client is None or not self.breaker.acquire(self._clock()):
            raise CloudUnavailableError(f"hand-off to {self._url} is held back after failures")
        start = self._clock()
        try:
            with anyio.fail_after(budget_ms / 1e3):
                response = await self._ask(client, request, budget_ms)
        except (TimeoutError, httpx.HTTPError, AimassError) as error:
            raise self._failure(error, start, budget_ms) from error
        except BaseException:
            self.breaker.abandoned()
            raise
        self._succeeded(start)
        return response

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
                raise CloudUnavailableError(_told(answer.status_code, raw))
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
        self.breaker.failed(now)
        if isinstance(error, TimeoutError):
            # It takes at least this long; less would be no news.
            if took_ms > self._round_trip.ms(now):
                self._round_trip.add(took_ms, now)
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
