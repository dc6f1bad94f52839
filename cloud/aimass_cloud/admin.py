"""A client of the coordinator's admin API, for the command line, the demo and tests.

It knows routes and JSON and nothing of the coordinator's inside: whatever it can do, any HTTP
client can do. Errors of the API come back as `ApiError` with the same code.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from aimass_shared.errors import (
    AimassError,
    CloudUnavailableError,
    InvalidSettingError,
    NotFoundError,
    UnauthenticatedError,
)

Json = dict[str, Any]
Watch = Callable[[float, str], None]
TIMEOUT_S = 30.0
POLL_S = 0.2
PAGE = 1000
PIECE_BYTES = 1 << 18
MAX_PORT = 65535


class ApiError(AimassError):
    """An error that the coordinator answered, with its code and status."""

    def __init__(self, detail: str, *, code: str, status: int) -> None:
        super().__init__(detail)
        self.__dict__.update(code=code, status=HTTPStatus(status))


class Admin:
    """The admin API as methods. Use as `async with Admin.connect(url, key) as admin`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, key: str, *, ca_file: str | None = None
    ) -> AsyncIterator["Admin"]:
        """Open a connection pool. `ca_file` is the coordinator's CA where the URL is https.

        Raises:
            InvalidSettingError: the URL is none, or the CA cannot be read.
            UnauthenticatedError: the key is none: it has characters that no key has.
        """
        if not (key.isascii() and key.isprintable()):
            raise UnauthenticatedError("the API key has characters that no key has")
        async with httpx.AsyncClient(
            base_url=_base_url(url),
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_S,
            verify=_trust(ca_file) if ca_file else True,
        ) as client:
            yield cls(client)

    async def call(self, method: str, path: str, body: Json | None = None) -> Any:  # noqa: ANN401  JSON of any shape
        """One request; the decoded JSON of the answer.

        Raises:
            ApiError: the coordinator answered an error.
            CloudUnavailableError: it did not answer, or what did is no coordinator.
        """
        where = self._client.base_url
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise CloudUnavailableError(
                f"no answer from {where} ({_reason(error)}): is `aimass serve` running?"
            ) from error
        try:
            answer = response.json() if response.content else {}
            if response.is_success:
                return answer
            raise _api_error(response.status_code, answer)
        except (ValueError, KeyError, TypeError) as error:
            raise CloudUnavailableError(
                f"{where} answered {response.status_code}, and not as a coordinator does:"
                " is the URL right?"
            ) from error

    async def fetch(self, path: str) -> bytes:
        """A file that the coordinator makes.

        Raises:
            ApiError: the coordinator answered an error.
            CloudUnavailableError: it did not answer, or what did is no coordinator.
        """
        where = self._client.base_url
        try:
            response = await self._client.get(path)
            if response.is_success:
                return response.content
            raise _api_error(response.status_code, response.json())
        except httpx.HTTPError as error:
            raise CloudUnavailableError(
                f"no answer from {where} ({_reason(error)}): is `aimass serve` running?"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CloudUnavailableError(f"{where} does not answer as a coordinator does") from error

    async def upload(self, path: Path, sha256: str) -> None:
        """Put a file as a blob, piece by piece.

        Raises:
            ApiError: the coordinator answered an error: the blob is too large, or was altered.
            CloudUnavailableError: it did not answer, or what did is no coordinator.
            InvalidSettingError: the file cannot be read.
        """
        where = self._client.base_url
        try:
            headers = {"content-length": str((await asyncio.to_thread(path.stat)).st_size)}
            response = await self._client.put(
                f"/blobs/{segment(sha256)}", content=_pieces(path), headers=headers
            )
            if not response.is_success:
                raise _api_error(response.status_code, response.json())
        except httpx.HTTPError as error:
            raise CloudUnavailableError(
                f"no answer from {where} ({_reason(error)}): is `aimass serve` running?"
            ) from error
        except OSError as error:
            raise InvalidSettingError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CloudUnavailableError(f"{where} does not answer as a coordinator does") from error

    async def ready(self) -> bool:
        """Whether the coordinator answers and all its parts run."""
        try:
            await self.call("GET", "/health/ready")
        except (ApiError, CloudUnavailableError):
            return False
        return True

    async def join_token(self, site: str, channel: str = "stable", minutes: int = 15) -> str:
        """A one-time token that lets one device of a site enrol."""
        body = {"site": site, "channel": channel, "minutes": minutes}
        return str((await self.call("POST", "/api/v1/join-tokens", body))["token"])

    async def devices(self) -> list[Json]:
        """All devices with their desired and reported state."""
        return list(await self.call("GET", "/api/v1/devices"))

    async def device(self, device: str) -> Json:
        """One device."""
        return dict(await self.call("GET", f"/api/v1/devices/{segment(device)}"))

    async def predictions(self, device: str) -> list[Json]:
        """Every stored prediction of a device, oldest first."""
        items: list[Json] = []
        after = ""
        while True:
            query = urlencode({"limit": PAGE, "after": after})
            path = f"/api/v1/devices/{segment(device)}/predictions?{query}"
            page = await self.call("GET", path)
            items += page["items"]
            after = page["next"] or ""
            if not after:
                return items

    async def start(self, kind: str, body: Mapping[str, Any]) -> str:
        """Start long work (`train`, `slice`, `rounds`); returns the job's id."""
        return str((await self.call("POST", f"/api/v1/jobs/{kind}", dict(body)))["job"])

    async def wait(self, job: str, watch: Watch = lambda _fraction, _message: None) -> Json:
        """Follow a job to its end; `watch` gets every change of (fraction, message).

        Raises:
            ApiError: the job failed; with its code.
        """
        while True:
            state = await self.call("GET", f"/api/v1/jobs/{segment(job)}")
            watch(state["progress"], state["message"])
            if state["state"] == "succeeded":
                return dict(state["result"])
            if state["state"] == "failed":
                raise ApiError(state["message"], code=state["code"], status=500)
            await asyncio.sleep(POLL_S)

    async def release(self, model: str, channel: str = "stable") -> Json:
        """Sign and publish the slices of a model."""
        body = {"model": model, "channel": channel}
        return dict(await self.call("POST", "/api/v1/releases", body))

    async def rollout(self, release: str, devices: list[str] | None = None) -> Json:
        """Send a release to devices (all of its channel by default)."""
        body: Json = {"release": release} | ({"devices": devices} if devices else {})
        return dict(await self.call("POST", "/api/v1/rollouts", body))

    async def wait_rollout(self, rollout: str, seconds: float = 60.0) -> Json:
        """Follow a rollout until it has ended or `seconds` have passed; its last state."""
        state: Json = {}
        for _ in range(max(1, round(seconds / POLL_S))):
            state = dict(await self.call("GET", f"/api/v1/rollouts/{segment(rollout)}"))
            if state["state"] != "running":
                break
            await asyncio.sleep(POLL_S)
        return state


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


def segment(name: str) -> str:
    """A name as one segment of a path, whatever stands in it.

    Raises:
        NotFoundError: the name is empty; the path would be that of the list.
    """
    if not name:
        raise NotFoundError("an empty name names nothing")
    quoted = quote(name, safe="")
    return quoted if name.strip(".") else quoted.replace(".", "%2E")  # "." and ".." are resolved


def _base_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidSettingError(f"{text!r} is no URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host or not 0 <= (url.port or 0) <= MAX_PORT:
        raise InvalidSettingError(f"{text!r} is no URL such as http://127.0.0.1:8080")
    return url


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # an SSLError is one, too
        raise InvalidSettingError(f"{ca_file} is no CA certificate: {error.strerror}") from error


def _reason(error: httpx.HTTPError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _api_error(status: int, problem: Json) -> ApiError:
    """The error of an answer: problem details, or what inference answers.

    Raises:
        KeyError, TypeError, ValueError: it is neither.
    """
    told = dict(problem)
    detail = told.get("detail") or told["error"]
    return ApiError(str(detail), code=str(told["code"]), status=status)
