"""`/v2` in front of the coordinator's models: who may ask, what is refused, what goes on."""

import json
from collections.abc import Awaitable, Callable

import httpx
import numpy as np
import pytest

from aimass_shared.inference import InferRequest, decode_response, encode_request

LIMIT = 100_000
INFER = "/v2/models/tiny/infer"

Key = Callable[..., Awaitable[dict[str, str]]]
Release = Callable[..., Awaitable[str]]


def _tensor(name: str, value: float, shape: tuple[int, ...] = (1, 4, 2)) -> dict[str, object]:
    data = np.full(shape, value).ravel().tolist()
    return {"name": name, "shape": shape, "datatype": "FP32", "data": data}


def _body(value: float = 3.0) -> dict[str, object]:
    return {"inputs": [_tensor("values", value), _tensor("mask", 1.0)]}


def _code(answer: httpx.Response) -> tuple[int, str]:
    told = answer.json()
    assert told["error"]
    return answer.status_code, told["code"]


async def test_without_a_model_it_says_so(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/v2")).json()["name"] == "aimass"
    assert (await admin.get("/v2/models")).json() == {"models": []}
    assert (await admin.get("/v2/health/live")).json() == {"live": True}
    assert _code(await admin.get("/v2/health/ready")) == (503, "no-active-model")
    assert _code(await admin.post(INFER, json=_body())) == (503, "no-active-model")


async def test_a_release_is_served_as_soon_as_it_is_signed(
    admin: httpx.AsyncClient, release: Release
) -> None:
    version = await release(2.0)
    assert (await admin.get("/v2/health/ready")).json() == {"ready": True}
    metadata = (await admin.get("/v2/models/tiny")).json()
    assert metadata["versions"] == [version]
    assert [one["name"] for one in metadata["inputs"]] == ["values", "mask"]
    answer = (await admin.post(INFER, json=_body(3.0) | {"id": "q1"})).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("q1", "tiny", version)
    assert answer["parameters"]["place"] == "cloud"
    outputs = {one["name"]: one for one in answer["outputs"]}
    assert outputs["forecast"]["data"] == [6.0] * 8
    assert outputs["score"]["data"] == [48.0]


async def test_binary_tensors_both_ways(admin: httpx.AsyncClient, release: Release) -> None:
    await release(2.0)
    values = np.arange(16, dtype=np.float32).reshape(2, 4, 2)
    request = InferRequest(
        model="tiny",
        inputs={"values": values, "mask": np.ones_like(values)},
        binary_output=True,
        deadline_ms=5000,
    )
    body, headers = encode_request(request)
    answer = await admin.post(INFER, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    outputs = decode_response(answer.content, length).outputs
    assert np.array_equal(outputs["forecast"], values * 2)
    assert np.array_equal(outputs["score"], (values * 2).sum((1, 2)))


async def test_only_those_with_the_scope_may_ask(
    admin: httpx.AsyncClient, nobody: httpx.AsyncClient, release: Release, key: Key
) -> None:
    await release()
    may, may_not = await key("infer"), await key("model:read")
    assert (await admin.post(INFER, json=_body(), headers=may)).status_code == 200
    for path in ("/v2", "/v2/models", "/v2/models/tiny"):
        assert (await admin.get(path, headers=may)).status_code == 200
        assert _code(await admin.get(path, headers=may_not)) == (403, "forbidden")
        assert (await nobody.get(path)).json()["code"] == "unauthenticated"
    assert _code(await admin.post(INFER, json=_body(), headers=may_not)) == (403, "forbidden")
    assert (await nobody.post(INFER, json=_body())).status_code == 401


BAD = {
    "no JSON": b"{",
    "no object": b"[]",
    "no inputs": b"{}",
    "one input missing": json.dumps({"inputs": [_tensor("values", 1)]}).encode(),
    "unknown input": json.dumps({"inputs": [_tensor("values", 1), _tensor("x", 1)]}).encode(),
    "wrong shape": json.dumps(
        {"inputs": [_tensor("values", 1, (1, 2, 4)), _tensor("mask", 1, (1, 2, 4))]}
    ).encode(),
    "two batches": json.dumps(
        {"inputs": [_tensor("values", 1, (2, 4, 2)), _tensor("mask", 1)]}
    ).encode(),
    "wrong type": json.dumps(
        {"inputs": [_tensor("values", 1) | {"datatype": "FP64"}, _tensor("mask", 1)]}
    ).encode(),
    "too little data": json.dumps(
        {"inputs": [_tensor("values", 1) | {"data": [1.0]}, _tensor("mask", 1)]}
    ).encode(),
    "text as data": json.dumps(
        {"inputs": [_tensor("values", 1) | {"data": ["a"] * 8}, _tensor("mask", 1)]}
    ).encode(),
}


async def test_what_is_wrong_with_a_request_is_said_and_the_model_goes_on(
    admin: httpx.AsyncClient, release: Release
) -> None:
    await release(2.0)
    for what, body in BAD.items():
        status, code = _code(await admin.post(INFER, content=body))
        assert (what, status) == (what, 400)
        assert code in {"bad-tensor", "malformed-message"}, what
    large = await admin.post(INFER, content=b" " * (LIMIT + 1))
    assert _code(large) == (413, "body-too-large")
    assert _code(await admin.get(INFER)) == (405, "method-not-allowed")
    assert _code(await admin.post("/v2/models/other/infer", json=_body())) == (404, "not-found")
    gone = await admin.post("/v2/models/tiny/versions/r-0/infer", json=_body())
    assert _code(gone) == (404, "not-found")
    assert _code(await admin.get("/v2/nothing")) == (404, "not-found")
    late = await admin.post(INFER, json=_body() | {"parameters": {"deadline_ms": 0}})
    assert _code(late)[0] in {400, 503, 504}
    assert (await admin.post(INFER, json=_body())).status_code == 200


@pytest.mark.parametrize(
    "bad", [{"content": b"no model at all"}, {"precision": "int8"}], ids=["corrupt", "no full"]
)
async def test_a_release_that_cannot_be_served_leaves_the_old_model(
    admin: httpx.AsyncClient,
    release: Release,
    caplog: pytest.LogCaptureFixture,
    bad: dict[str, object],
) -> None:
    old = await release(2.0)
    new = await release(**bad)
    assert f"release {new} is not served" in caplog.text
    answer = (await admin.post(INFER, json=_body(1.0))).json()
    assert answer["model_version"] == old
    assert (await admin.get("/api/v1/releases")).json()[0]["id"] == new
