"""The inference application behind a real uvicorn: every route, every refusal, slow clients."""

import asyncio
import contextlib
import http.client
import logging
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import uvicorn

from aimass_shared.errors import (
    ForbiddenError,
    NotFoundError,
    OverloadedError,
    UnauthenticatedError,
)
from aimass_shared.inference import (
    HEADER_LENGTH,
    InferenceApp,
    InferRequest,
    InferResponse,
    ModelMetadata,
    WantedOutput,
    decode_response,
    encode_request,
)
from aimass_shared.inference.asgi import Route, route_of
from aimass_shared.manifest import TensorSpec

SPEC = TensorSpec("x", "FP32", (-1, 2))
MAX_BODY = 1 << 16


class Doubler:
    """A backend whose model doubles its input."""

    name = "test-server"
    version = "1.2"

    def __init__(self) -> None:
        self.active = True
        self.requests: list[InferRequest] = []

    def ready(self) -> bool:
        return self.active

    def models(self) -> Sequence[str]:
        return ["doubler"]

    def metadata(self, model: str, version: str) -> ModelMetadata:
        if model != "doubler" or version not in {"", "3"}:
            raise NotFoundError(f"no model {model} {version}; there is doubler 3")
        return ModelMetadata("doubler", ("3",), "onnxruntime", (SPEC,), (SPEC,))

    async def infer(self, request: InferRequest) -> InferResponse:
        self.requests.append(request)
        self.metadata(request.model, request.version)
        if request.id == "busy":
            wait_s = 0.0 if request.deadline_ms == 1 else 1.2
            raise OverloadedError("300 windows wait, the limit is 256", retry_after_s=wait_s)
        if request.id == "broken":
            raise RuntimeError("secret detail")
        doubled: np.ndarray[Any, np.dtype[Any]] = np.asarray(request.inputs["x"]) * 2
        return InferResponse(
            model="doubler",
            version="3",
            outputs={"x": doubled},
            parameters={"place": "local", "service_ms": 0.1},
        )


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:  # noqa: ANN401  # whatever the server sent
        return msgspec.json.decode(self.body)


class Site(NamedTuple):
    port: int
    backend: Doubler

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            sent = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, response.read(), sent)

    def post(self, request: InferRequest, path: str = "/v2/models/doubler/infer") -> Answer:
        body, headers = encode_request(request)
        return self.ask("POST", path, body, headers)


@contextlib.contextmanager
def _serving(app: InferenceApp, **options: Any) -> Iterator[int]:  # noqa: ANN401  # uvicorn's
    config = uvicorn.Config(app, ws="none", log_config=None, **options)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # so that the first client waits instead of being refused
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def site() -> Iterator[Site]:
    backend = Doubler()
    app = InferenceApp(backend, max_body_bytes=MAX_BODY, body_deadline_s=1.0)
    with _serving(app) as port:
        yield Site(port, backend)


def _request(**changes: Any) -> InferRequest:  # noqa: ANN401  # fields of the struct
    inputs = {"x": np.array([[1, 2]], np.float32)}
    return msgspec.structs.replace(InferRequest(model="doubler", inputs=inputs), **changes)


def test_the_server_and_its_models_describe_themselves(site: Site) -> None:
    assert site.ask("GET", "/v2").json == {
        "name": "test-server",
        "version": "1.2",
        "extensions": ["binary_tensor_data"],
    }
    assert site.ask("GET", "/v2/models").json == {"models": ["doubler"]}
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    described = {"name": "doubler", "versions": ["3"], "platform": "onnxruntime"}
    for path in ("/v2/models/doubler", "/v2/models/doubler/versions/3"):
        answer = site.ask("GET", path)
        assert answer.json == described | {"inputs": [tensor], "outputs": [tensor]}
        assert answer.headers["content-type"] == "application/json"


def test_health_follows_the_backend(site: Site) -> None:
    assert site.ask("GET", "/v2/health/live").json == {"live": True}
    assert site.ask("GET", "/v2/health/ready").json == {"ready": True}
    ready = site.ask("GET", "/v2/models/doubler/ready").json
    assert ready == {"name": "doubler", "ready": True}
    site.backend.active = False
    for path in ("/v2/health/ready", "/v2/models/doubler/ready"):
        answer = site.ask("GET", path)
        assert (answer.status, answer.json["code"]) == (503, "no-active-model")
    assert site.ask("GET", "/v2/health/live").status == 200
    assert site.ask("GET", "/v2/models/other/ready").status == 404


@pytest.mark.parametrize("path", ["doubler/infer", "doubler/versions/3/infer"])
def test_bytes_in_bytes_out(site: Site, path: str) -> None:
    answer = site.post(_request(binary_output=True, deadline_ms=70), f"/v2/models/{path}")
    got = decode_response(answer.body, int(answer.headers[HEADER_LENGTH]))
    assert got.outputs["x"].tolist() == [[2.0, 4.0]]
    assert (got.model, got.version) == ("doubler", "3")
    assert got.parameters == {"place": "local", "service_ms": 0.1}
    assert site.backend.requests[0].deadline_ms == 70
    assert site.backend.requests[0].version == ("3" if "versions" in path else "")


def test_json_in_json_out(site: Site) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    body = msgspec.json.encode({"id": "a", "inputs": [tensor]})
    answer = site.ask("POST", "/v2/models/doubler/infer", body)
    assert answer.status == 200
    assert HEADER_LENGTH not in answer.headers
    assert answer.json["id"] == "a"
    assert answer.json["outputs"] == [tensor | {"data": [2.0, 4.0]}]


def test_a_body_in_chunks_is_put_together(site: Site) -> None:
    body, headers = encode_request(_request())
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    with contextlib.closing(connection):
        chunks = iter([body[:7], body[7:100], body[100:]])
        path = "/v2/models/doubler/infer"
        connection.request("POST", path, chunks, headers, encode_chunked=True)
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"id": "busy"}, 503, "overloaded"),
        ({"outputs": (WantedOutput("z"),)}, 400, "bad-tensor"),
        ({"inputs": {"x": np.zeros(MAX_BODY, np.float32)}}, 413, "body-too-large"),
    ],
)
def test_errors_carry_their_code_and_status(
    site: Site, change: dict[str, object], status: int, code: str
) -> None:
    answer = site.post(_request(**change))
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["error"]


def test_a_refusal_says_when_to_come_back_where_that_helps(site: Site) -> None:
    assert site.post(_request(id="busy")).headers["retry-after"] == "2"
    assert "retry-after" not in site.post(_request(id="busy", deadline_ms=1)).headers


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (("GET", "/v2/nothing"), (404, "not-found")),
        (("GET", "/v2/models/other"), (404, "not-found")),
        (("GET", "/v2/models/doubler/versions/9"), (404, "not-found")),
        (("GET", "/v2/models/doubler/infer"), (405, "method-not-allowed")),
        (("POST", "/v2/models/doubler"), (405, "method-not-allowed")),
        (("POST", "/v2/models/doubler/infer"), (400, "malformed-message")),
    ],
)
def test_paths_and_methods_that_do_not_exist(
    site: Site, asked: tuple[str, str], answered: tuple[int, str]
) -> None:
    answer = site.ask(*asked)
    assert (answer.status, answer.json["code"]) == answered


@pytest.mark.parametrize("headers", [{HEADER_LENGTH: "x"}, {"Content-Encoding": "gzip"}])
def test_headers_that_cannot_be_followed_are_refused(site: Site, headers: dict[str, str]) -> None:
    answer = site.ask("POST", "/v2/models/doubler/infer", b"{}", headers)
    assert (answer.status, answer.json["code"]) == (400, "malformed-message")


def test_a_failure_is_logged_and_not_told(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    answer = site.post(_request(id="broken"))
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert b"secret" not in answer.body
    assert "secret detail" in caplog.text
    assert site.post(_request()).status == 200


def _raw(port: int, *parts: bytes, close: bool = False) -> bytes:
    """Send bytes as they are, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        if close:
            return b""
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


POST = b"POST /v2/models/doubler/infer HTTP/1.1\r\nHost: x\r\n"


def test_a_body_over_the_limit_is_refused_before_it_is_sent(site: Site) -> None:
    received = _raw(site.port, POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1))
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"body-too-large" in received


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(site: Site) -> None:
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    received = _raw(
        site.port, POST + b"Transfer-Encoding: chunked\r\n\r\n", chunk * 2, b"1\r\n \r\n"
    )
    assert received.startswith(b"HTTP/1.1 413 ")


def test_a_slow_body_is_given_up_and_the_connection_closed(site: Site) -> None:
    received = _raw(site.port, POST + b"Content-Length: 100\r\n\r\n", b"{")
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"body-too-slow" in received
    assert site.backend.requests == []


def test_a_client_that_leaves_harms_nobody(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    _raw(site.port, POST + b"Content-Length: 100\r\n\r\n", b"{", close=True)
    assert site.post(_request()).status == 200
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.fixture
def guarded() -> Iterator[Site]:
    def authorize(scope: Mapping[str, Any]) -> None:
        token = dict(scope["headers"]).get(b"authorization")
        if token is None:
            raise UnauthenticatedError("send a key")
        if token != b"Bearer good":
            raise ForbiddenError("this key lacks the scope infer")

    backend = Doubler()
    app = InferenceApp(backend, max_body_bytes=MAX_BODY, authorize=authorize)
    with _serving(app) as port:
        yield Site(port, backend)


def test_the_right_is_asked_for_before_the_body_is_read(guarded: Site) -> None:
    received = _raw(guarded.port, POST + b"Content-Length: 100\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 401 ")
    assert b"www-authenticate: Bearer" in received
    answer = guarded.ask("GET", "/v2", headers={"Authorization": "Bearer bad"})
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert guarded.ask("GET", "/v2", headers={"Authorization": "Bearer good"}).status == 200


def test_health_is_open_to_all(guarded: Site) -> None:
    assert guarded.ask("GET", "/v2/health/live").status == 200
    assert guarded.ask("GET", "/v2/health/ready").status == 200


def test_a_root_path_of_a_proxy_is_cut_off() -> None:
    app = InferenceApp(Doubler(), max_body_bytes=MAX_BODY)
    with _serving(app, root_path="/plant") as port:
        assert Site(port, Doubler()).ask("GET", "/v2/models").json == {"models": ["doubler"]}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2", Route("server")),
        ("/", Route("server")),
        ("/v2/", Route("server")),
        ("/health/live/", Route("live")),
        ("/models/v2/infer/", Route("infer", "v2")),
        ("/v2/models/v2/versions/7/ready", Route("model-ready", "v2", "7")),
        ("/v2/models/versions", Route("model", "versions")),
    ],
)
def test_a_path_leads_somewhere_with_and_without_its_prefix(path: str, route: Route) -> None:
    assert route_of(path) == route


@pytest.mark.parametrize(
    "path", ["/v2/v2", "/v1", "/v2/health", "/v2/models/m/run", "/v2/models/m/versions"]
)
def test_other_paths_lead_nowhere(path: str) -> None:
    with pytest.raises(NotFoundError, match="/v2/models"):
        route_of(path)


async def test_a_websocket_is_turned_away() -> None:
    sent: list[Any] = []

    async def receive() -> Mapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:  # noqa: ANN401  # an ASGI message
        sent.append(message)

    app = InferenceApp(Doubler(), max_body_bytes=1)
    await app({"type": "websocket", "path": "/v2"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1003}]
