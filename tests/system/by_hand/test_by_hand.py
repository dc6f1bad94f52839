"""The whole path by hand: nothing that the demo uses is private, and nothing bad ends a process."""

import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aimass_cloud.recipes.tep import PLANT
from aimass_shared.sparkplug.datatypes import DataType
from aimass_shared.sparkplug.payload import Metric
from aimass_shared.sparkplug.session import EdgeSession

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

WINDOW = PLANT.window
MAX_PAYLOAD, MAX_BODY = 64 << 10, 256 << 10
MODEL = "tep-monitor"
HEAVY = ("torch", "flwr", "litestar", "sqlalchemy", "/onnx/")
Json = dict[str, Any]
Rows = Sequence[Sequence[float]]
Ground = Any  # of conftest.py, which pytest loads without a name to import it by
MakeSite = Callable[..., Any]


def normal(count: int) -> Rows:
    rows: Rows = PLANT.load().test[:count].tolist()
    return rows


def good_request(batch: int = 1) -> Json:
    window = np.array(normal(WINDOW), np.float32)
    values = np.broadcast_to(window, (batch, *window.shape))
    return {"inputs": [tensor("values", values), tensor("mask", np.ones_like(values))]}


def tensor(name: str, values: Any, datatype: str = "FP32") -> Json:  # noqa: ANN401  an array of any type
    return {
        "name": name,
        "shape": list(values.shape),
        "datatype": datatype,
        "data": values.ravel().tolist(),
    }


def test_from_a_token_to_an_alarm(ground: Ground, make_site: MakeSite) -> None:
    site = make_site()
    checked = site.command("check")
    assert checked["ok"], checked
    assert checked["model"] == "ok: none yet, a rollout brings one"
    taken = site.roll_out(ground.release)
    assert taken["state"] == "applied", taken
    named = f"ok: {taken['slice']} of {ground.release}, fed from telemetry"
    assert site.command("check")["model"] == f"{named}, on trial"

    data, before = PLANT.load(), 30
    rows = data.faults[4][data.fault_start - before : data.fault_start + 30].tolist()
    site.send(rows)
    ends = site.ends(WINDOW - 1, len(rows))
    assert site.stored(len(ends)) == ends
    site.poll(lambda: len(site.heard) == len(ends), "the answers on the plant's topic")

    predictions = ground.cloud.predictions(site.device)
    assert [one["timestamp_ms"] for one in site.heard] == ends
    assert [one["score"] for one in site.heard] == [one.score for one in predictions]
    assert set(site.heard[0]["forecast"]) == set(data.names)
    assert {one.release for one in predictions} == {ground.release}
    alarms = [one.window_end for one in predictions if one.alarm]
    assert alarms, "a step in the cooling water's temperature is seen"
    assert min(alarms) >= site.time_ms(before), "not before it happened"

    site.until(lambda one: one["stats"]["outbox_pending"] == 0, "an empty outbox")
    site.poll(lambda: site.command("check")["model"] == named, "the end of the trial")
    status = site.command("status")
    assert (status["stats"]["rows"], status["stats"]["alarms"]) == (len(rows), 1)
    assert status["reported"]["release"]["slice"] == taken["slice"]


def test_the_agent_is_small_and_says_goodbye(
    ground: Ground, make_site: MakeSite, record_property: Callable[[str, object], None]
) -> None:
    site = make_site()
    sizes = {"without a model": site.agent.rss_mib()}
    assert site.roll_out(ground.release)["state"] == "applied"
    site.send(normal(40))
    site.stored(25)
    sizes["with a model"] = site.agent.rss_mib()
    for name, (rss, own) in sizes.items():
        record_property(f"agent {name}: MiB resident", rss)
        sys.stdout.write(f"agent {name}: {rss:.1f} MiB resident, {own:.1f} MiB its own\n")
    assert sizes["with a model"][1] < 150
    maps = Path(f"/proc/{site.agent.pid}/maps").read_text()
    assert [name for name in HEAVY if name in maps] == []
    device = ground.cloud.get(f"/devices/{site.device}")
    assert (device["online"], device["reported"]["state"]) == (True, "applied")
    assert site.agent.end(signal.SIGTERM) == 0
    site.poll(lambda: not ground.cloud.get(f"/devices/{site.device}")["online"], "the last word")


def test_an_agent_that_is_killed_goes_on_without_loss(ground: Ground, make_site: MakeSite) -> None:
    site = make_site(release=ground.release)
    site.send(normal(30))
    assert site.stored(15) == site.ends(15, 30)

    site.agent.end()
    site.agent.start()
    status = site.until(lambda one: one["serving"]["ready"], "the model after the kill")
    assert status["serving"]["release"] == ground.release
    site.until(lambda one: one["plant_connected"], "the plant's broker")
    site.send(normal(10))
    assert site.stored(25) == site.ends(15, 40), "no window is missing, and none is there twice"

    site.send(normal(25))  # killed with rows, predictions and batches on their way
    site.agent.end()
    kept, before = (
        set(site.kept()),
        {one.window_end for one in ground.cloud.predictions(site.device)},
    )
    site.agent.start()
    site.until(lambda one: one["plant_connected"] and one["serving"]["ready"], "the third start")
    site.send(normal(WINDOW + 4))
    last = site.time_ms(65 + WINDOW + 3)
    site.poll(lambda: site.stored(1)[-1] == last, "the last window")
    site.until(lambda one: one["stats"]["outbox_pending"] == 0, "an empty outbox")
    stored = site.stored(1)
    assert len(set(stored)) == len(stored), "none twice"
    assert kept | before <= set(stored), "what was on the disk arrived"


def test_a_coordinator_that_is_killed_loses_nothing(ground: Ground, make_site: MakeSite) -> None:
    """Nor does the agent that is killed meanwhile."""
    site = make_site(release=ground.release)
    site.send(normal(20))
    assert site.stored(5) == site.ends(15, 20)
    ground.cloud.process.end()
    site.until(lambda one: not one["cloud_connected"], "the loss of the coordinator")
    site.send(normal(40))
    site.poll(
        lambda: site.kept()[-40:] == site.ends(20, 60), "the predictions on the device's disk"
    )
    site.poll(lambda: len(site.heard) == 45, "the answers, which the plant gets all the same")
    site.agent.end()
    site.agent.start()
    status = site.until(lambda one: one["serving"]["ready"], "the model without a coordinator")
    assert status["stats"]["outbox_pending"] >= 40
    ground.cloud.process.start()
    ground.cloud.until_ready()
    assert site.stored(45) == site.ends(15, 60)
    site.until(lambda one: one["stats"]["outbox_pending"] == 0, "an empty outbox")


def test_bad_telemetry_is_counted_and_the_next_row_is_taken(
    ground: Ground, make_site: MakeSite
) -> None:
    site = make_site(release=ground.release)
    site.send(normal(WINDOW))
    assert site.stored(1) == site.ends(15, 16)
    bad = (b"{", b"\xff\xfe", b"[1, 2]", b"", b'{"timestamp_ms": "noon", "XMEAS_01": 1}')
    for payload in (*bad, b'{"timestamp_ms": 1}', b"[" * 5000, b'{"XMEAS_01": 1}'):
        site.say(payload)
    status = site.until(lambda one: one["telemetry"]["rejected"] == 8, "the refused messages")
    assert status["telemetry"]["rejected_codes"] == {"malformed-message": 8}
    site.say(b'{"timestamp_ms": 1, "pad": "' + b"x" * MAX_PAYLOAD + b'"}')
    status = site.until(lambda one: one["dropped"] == 1, "the oversize message")
    assert status["stats"]["rejected_messages"] == 9
    site.say(b"x" * (4 << 20))  # MQTT 5: the broker keeps it from us

    row = {**site.row(normal(1)[0]), "XMEAS_01": float("nan"), "XMEAS_02": None, "XMEAS_03": "?"}
    site.say(json.dumps(row).encode())
    assert site.stored(2) == site.ends(15, 17)
    status = site.until(lambda one: one["telemetry"]["bad"] == 3, "the bad values")
    assert (status["serving"]["counts"]["failed_windows"], status["dropped"]) == (0, 1)
    coverage = [one.coverage for one in ground.cloud.predictions(site.device)]
    assert coverage == pytest.approx([1.0, 1 - 3 / (WINDOW * 52)])


def test_bad_sparkplug_is_counted_and_births_are_taken(make_site: MakeSite) -> None:
    site = make_site("sparkplug")
    names = PLANT.load().names
    prefix = f"spBv1.0/acme/%s/{site.name}"
    for kind, payload in (
        ("NBIRTH", b"no protobuf \xff\xff"),
        ("NDATA", b"\xff" * 100),
        ("DDATA", b"junk"),
        ("DBIRTH", b"\x0a\xff\xff\xff\xff\x0f"),
    ):
        tail = "/reactor" if kind.startswith("D") else ""
        site.say(payload, prefix % kind + tail)
    status = site.until(lambda one: one["telemetry"]["rejected"] == 4, "the refused messages")
    assert set(status["telemetry"]["rejected_codes"]) == {"malformed-message"}

    metrics = [Metric(name=name, datatype=DataType.FLOAT, value=None) for name in names]
    session = EdgeSession("acme", site.name, {"": [], "reactor": metrics})
    now_ms = int(time.time() * 1000)
    session.will(now_ms)
    for message in session.births(now_ms):
        site.say(message.payload, message.topic)
    for number, values in enumerate(normal(3)):
        read = [
            Metric(name=name, datatype=DataType.FLOAT, value=value, timestamp=site.time_ms(number))
            for name, value in zip(names, values, strict=True)
        ]
        data = session.data("reactor", read, now_ms=now_ms)
        assert data
        site.say(data.payload, data.topic)
    status = site.until(lambda one: one["stats"]["rows"] == 3, "the rows after the births")
    assert status["telemetry"]["rejected"] == 4


def test_bad_requests_get_a_code_and_the_model_keeps_answering(
    ground: Ground, make_site: MakeSite
) -> None:
    site = make_site(release=ground.release)
    values = np.ones((1, WINDOW, 52), np.float32)
    mask = tensor("mask", values)
    short = np.ones((1, WINDOW - 1, 52), np.float32)
    bad: list[tuple[Json | bytes, int, str]] = [
        ({"inputs": [tensor("values", short), tensor("mask", short)]}, 400, "bad-tensor"),
        ({"inputs": [tensor("values", values[0]), mask]}, 400, "bad-tensor"),
        ({"inputs": [tensor("values", values.astype(np.int32), "INT32"), mask]}, 400, "bad-tensor"),
        ({"inputs": [{**tensor("values", values), "data": [1.0]}, mask]}, 400, "bad-tensor"),
        ({"inputs": [tensor("values", values)]}, 400, "bad-tensor"),
        ({"inputs": [tensor("values", values), mask, tensor("more", values)]}, 400, "bad-tensor"),
        ({"inputs": [{**tensor("values", values), "datatype": "FP1"}, mask]}, 400, "bad-tensor"),
        (b"{", 400, "malformed-message"),
        (b"", 400, "malformed-message"),
        (b"[]", 400, "malformed-message"),
        (b" " * (MAX_BODY + 1), 413, "body-too-large"),
        (json.dumps(good_request(batch=100)).encode(), 413, "body-too-large"),
    ]
    for body, status, code in bad:
        answer = site.infer(body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.json()["error"]
        good = site.infer(good_request())
        assert (good.status_code, good.json()["parameters"]["place"]) == (200, "local"), good.text
    unknown = httpx.post(f"{site.api}/v2/models/other/infer", json=good_request())
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not-found")
    wrong = httpx.delete(f"{site.api}/v2/models/{MODEL}/infer")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method-not-allowed")


def test_a_tampered_model_is_refused_and_the_old_one_answers(
    ground: Ground, make_site: MakeSite
) -> None:
    site = make_site(release=ground.release)
    site.send(normal(WINDOW + 5))
    site.stored(6)
    (path,) = (site.data / "models" / "store").glob("*/model.onnx")
    blob = ground.cloud.data / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
    good = blob.read_bytes()
    second = ground.cloud.release()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    blob.write_bytes(bad)
    try:
        taken = site.roll_out(second, code=1)
    finally:
        blob.write_bytes(good)
    assert taken["state"] == "rejected", taken
    reported = ground.cloud.get(f"/devices/{site.device}")["reported"]
    assert (reported["state"], reported["code"]) == ("rejected", "bad-digest")
    assert reported["release"]["release"] == ground.release
    assert site.infer(good_request()).json()["model_version"] == ground.release
    site.send(normal(1))
    site.stored(7)
    assert {one.release for one in ground.cloud.predictions(site.device)} == {ground.release}
    assert site.roll_out(second)["state"] == "applied", "the repaired file is fetched again"
    assert site.infer(good_request()).json()["model_version"] == second


def test_a_factory_broker_that_goes_and_comes(ground: Ground, make_site: MakeSite) -> None:
    site = make_site(release=ground.release)
    site.send(normal(WINDOW))
    site.stored(1)
    ground.broker.end()
    status = site.until(lambda one: not one["plant_connected"], "the loss of the broker")
    assert status["cloud_connected"]
    assert site.infer(good_request()).status_code == 200
    told = site.command("check", code=1)
    assert told["factory broker"].endswith("[broker-unavailable]")
    ground.broker.start()
    site.until(lambda one: one["plant_connected"], "the broker")
    site.send(normal(WINDOW))
    last = site.time_ms(2 * WINDOW - 1)
    site.poll(lambda: site.stored(1)[-1] == last, "the last window")
