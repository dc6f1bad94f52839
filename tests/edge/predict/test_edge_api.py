"""The local endpoint over real HTTP: the protocol, the status, its port, its end."""

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
import httpx
import numpy as np
import pytest

from aimass_edge.api import Api
from aimass_edge.config import ApiSettings, BoardSettings, CapacitySettings, HandoffSettings
from aimass_edge.handoff import Handoff
from aimass_edge.predict import Predictor
from aimass_shared.errors import PortInUseError
from aimass_shared.inference import HEADER_LENGTH, decode_response, encode_request

Make = Callable[..., Any]
CloudServer: TypeAlias = Any  # of conftest, which cannot be imported from
FREE = ApiSettings(port=0)
CAPACITY = CapacitySettings(default_deadline_ms=20_000, queue_limit=4)
INFER = "/v2/models/tiny/infer"


@asynccontextmanager
async def served(predictor: Predictor) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        predictor,
        Api(FREE, predictor, predictor.status) as api,
        httpx.AsyncClient(base_url=api.url, timeout=30, trust_env=False) as client,
    ):
        yield client


def as_json(value: float) -> dict[str, object]:
    data = [value] * 12
    tensor = {"shape": [1, 4, 3], "datatype": "FP32"}
    return {
        "inputs": [
            {"name": "values", "data": data, **tensor},
            {"name": "mask", "data": [1.0] * 12, **tensor},
        ]
    }


async def test_json_in_json_out(make_release: Make) -> None:
    predictor = Predictor(BoardSettings(), CAPACITY)
    async with served(predictor) as client:
        await predictor.activate(*make_release("r1"))
        answer = await client.post(INFER, json=as_json(2.0))
        assert answer.status_code == 200
        body = answer.json()
        assert (body["model_name"], body["model_version"]) == ("tiny", "r1")
        assert body["parameters"]["place"] == "local"
        outputs = {output["name"]: output["data"] for output in body["outputs"]}
        assert outputs["score"] == [12.0]
        metadata = (await client.get("/v2/models/tiny")).json()
        assert metadata["versions"] == ["r1"]
        assert metadata["inputs"][0] == {
            "name": "values",
            "datatype": "FP32",
            "shape": [-1, 4, 3],
        }


async def test_bytes_in_bytes_out(make_release: Make, make_request: Make) -> None:
    predictor = Predictor(BoardSettings(), CAPACITY)
    async with served(predictor) as client:
        await predictor.activate(*make_release())
        body, headers = encode_request(make_request(2.0, batch=2, binary_output=True))
        answer = await client.post(INFER, content=body, headers=headers)
        response = decode_response(answer.content, int(answer.headers[HEADER_LENGTH]))
        np.testing.assert_array_equal(response.outputs["score"], [12.0, 12.0])


async def test_errors_have_a_code_and_a_status(make_release: Make) -> None:
    predictor = Predictor(BoardSettings(), CAPACITY)
    async with served(predictor) as client:
        early = await client.post(INFER, json=as_json(1.0))
        assert (early.status_code, early.json()["code"]) == (503, "no-active-model")
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.get("/v2/health/ready")).status_code == 503
        await predictor.activate(*make_release())
        assert (await client.get("/v2/health/ready")).status_code == 200
        other = await client.post("/v2/models/other/infer", json=as_json(1.0))
        assert (other.status_code, other.json()["code"]) == (404, "not-found")
        wrong = await client.post(INFER, json={"inputs": as_json(1.0)["inputs"][:1]})  # type: ignore[index]  # a list
        assert (wrong.status_code, wrong.json()["code"]) == (400, "bad-tensor")


async def test_the_status_tells_what_runs(make_release: Make) -> None:
    predictor = Predictor(BoardSettings(name="edge-9"), CAPACITY)
    async with served(predictor) as client:
        before = (await client.get("/status")).json()
        assert (before["ready"], before["release"], before["board"]) == (False, "", "edge-9")
        await predictor.activate(*make_release("r7"))
        await client.post(INFER, json=as_json(1.0))
        after = (await client.get("/status")).json()
        assert (after["ready"], after["release"], after["slice"]) == (True, "r7", "w1.00-fp32")
        assert after["counts"]["answered"] == 1
        assert after["service_ms"] > 0
        assert (await client.post("/status")).status_code in {404, 405}


async def test_answers_do_not_wait_for_a_delayed_ack(make_release: Make) -> None:
    """With Nagle's algorithm on, no answer on a connection in use comes within 40 ms."""
    predictor = Predictor(BoardSettings(), CAPACITY)
    async with served(predictor) as client:
        await predictor.activate(*make_release())
        took_s = []
        for _ in range(30):
            start = time.monotonic()
            await client.post(INFER, json=as_json(1.0))
            took_s.append(time.monotonic() - start)
        assert sorted(took_s[10:])[5] < 0.03


async def test_a_taken_port_is_named() -> None:
    predictor = Predictor(BoardSettings(), CAPACITY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"127.0.0.1:{port}"):
            async with Api(ApiSettings(port=port), predictor, predictor.status):
                pass


async def test_the_port_is_free_after_the_end_even_when_cancelled() -> None:
    predictor = Predictor(BoardSettings(), CAPACITY)
    port = 0
    with anyio.move_on_after(0.3):
        async with predictor, Api(FREE, predictor, predictor.status) as api:
            port = api.port
            await anyio.sleep_forever()
    async with Api(ApiSettings(port=port), predictor, predictor.status) as again:
        assert again.port == port
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{again.url}/v2/health/live")).status_code == 200


async def test_device_and_cloud_over_http_answer_a_burst(
    cloud: CloudServer, make_release: Make, make_pace: Make
) -> None:
    """From a client through the agent to the cloud and back: nothing is lost, nothing is late."""
    async with Handoff(cloud.url, HandoffSettings(), bearer=str) as handoff:
        predictor = Predictor(BoardSettings(), CAPACITY, cloud=handoff, opener=make_pace(0.05))
        async with served(predictor) as client:
            await predictor.activate(*make_release())
            places: list[str] = []

            async def ask(value: float) -> None:
                body = (await client.post(INFER, json=as_json(value))).json()
                outputs = {output["name"]: output["data"] for output in body["outputs"]}
                assert outputs["score"] == [pytest.approx(3 * value**2)]
                places.append(body["parameters"]["place"])

            async with anyio.create_task_group() as tasks:
                for value in range(50):
                    tasks.start_soon(ask, float(value))
            counts = (await client.get("/status")).json()["counts"]
            assert len(places) == 50
            assert counts["answered"] == places.count("local") >= 4
            assert counts["handed_off"] == places.count("cloud") >= 1
            assert (counts["late"], counts["refused"]) == (0, 0)
