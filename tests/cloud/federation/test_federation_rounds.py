"""Runs from plan to record: widths by hand, bad clients, resuming, statistics, the API."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from aimass_cloud.federation.checkpoints import Checkpoints
from aimass_cloud.federation.plans import Client, Nesting, StatisticsPlan, TrainingPlan
from aimass_cloud.federation.rounds import Rounds
from aimass_cloud.federation.transport import Handler
from aimass_shared.errors import (
    ConflictError,
    MalformedMessageError,
    NoClientsError,
)
from aimass_shared.messages import RoundReply, RoundTask
from aimass_shared.moments import Moments, moments
from aimass_shared.updates import encode

Arrays = dict[str, NDArray[Any]]
Devices = Any  # the fixture's class lives in conftest
Make = Callable[[dict[str, Handler]], Rounds]
Until = Callable[..., Awaitable[None]]
SENSORS = ("a", "b")


def quiet(_fraction: float, _message: str) -> None:
    pass


def by_mean(arrays: Arrays) -> dict[str, float]:
    return {"val_mse": float(arrays["b"].mean())}


def plan(**changes: Any) -> TrainingPlan:  # noqa: ANN401 - any field of the plan
    base = TrainingPlan(
        run="run-1",
        model="m1",
        rounds=1,
        clients={
            "full": Client(1.0, "w1.00-fp32"),
            "half": Client(0.5, "w0.50-int8"),
            "quarter": Client(0.25, "w0.25-int8"),
        },
        sensors=SENSORS,
        step_ms=1000,
        epochs=2,
        learning_rate=0.5,
        seed=11,
        timeout_s=0.5,
    )
    return msgspec.structs.replace(base, **changes)


async def train(rounds: Rounds, asked: TrainingPlan, model: Arrays, nesting: Nesting) -> Arrays:
    result = await rounds.run_training(
        asked, model, nesting=nesting, evaluate=by_mean, progress=quiet
    )
    return result.arrays


async def test_three_widths_average_as_by_hand(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
) -> None:
    rounds = make(
        {"full": devices.adds(1, 10), "half": devices.adds(4, 20), "quarter": devices.adds(10, 30)}
    )
    heard: list[tuple[float, str]] = []
    result = await rounds.run_training(
        plan(), model, nesting=nesting, evaluate=by_mean, progress=lambda f, m: heard.append((f, m))
    )
    inner, middle = (10 + 80 + 300) / 60, (10 + 80) / 30
    np.testing.assert_allclose(result.arrays["b"], [inner, middle, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(result.arrays["fixed"], np.full(3, 1 + inner), rtol=1e-6)
    assert result.arrays["w"][1, 1] == pytest.approx(5 + middle)
    assert result.arrays["w"][3, 0] == 13
    (record,) = result.records
    assert record.metrics == {
        "examples": 60,
        "loss": pytest.approx((100 + 400 + 900) / 60),
        "val_mse": pytest.approx((inner + middle + 2) / 4),
    }
    assert [(c.device, c.ok, c.width, c.examples) for c in record.clients] == [
        ("full", True, 1.0, 10),
        ("half", True, 0.5, 20),
        ("quarter", True, 0.25, 30),
    ]
    assert record.bytes_up == sum(c.bytes_up for c in record.clients) > 0
    assert record.clients[0].bytes_down > record.clients[2].bytes_down > 0
    assert record.seconds > 0
    assert heard == [(0.0, "round 1 of 1"), (1.0, "1 rounds done")]
    assert await rounds.records("run-1") == [record]
    assert await rounds.records("other") == []


async def test_a_task_tells_the_device_what_to_do(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
) -> None:
    await train(make({"half": devices.adds(1, 1)}), plan(rounds=2), model, nesting)
    tasks = [task for task, _ in devices.seen]
    assert [(t.number, t.seed) for t in tasks] == [(1, 11), (2, 12)]
    assert len({t.task for t in tasks}) == 2
    first, arrays = devices.seen[0]
    assert (first.run, first.kind, first.slice) == ("run-1", "train", "w0.50-int8")
    assert (first.sensors, first.step_ms, first.epochs) == (SENSORS, 1000, 2)
    assert first.learning_rate == 0.5
    assert {k: v.shape for k, v in arrays.items()} == {"w": (2, 2), "b": (2,), "fixed": (3,)}


async def test_bad_clients_are_left_out_with_their_reasons(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
) -> None:
    def nan(task: RoundTask, _blob: bytes) -> tuple[RoundReply, bytes]:
        raw = encode({"b": np.zeros(4, np.float32)}, {"task": task.task})
        raw = raw[:-4] + np.array([np.nan], np.float32).tobytes()
        return RoundReply(task=task.task, ok=True, size=len(raw), examples=9), raw

    handlers = {
        "good": devices.adds(2, 5),
        "nan": nan,
        "shape": devices.sends(lambda _: {"b": np.zeros(2, np.float32)}),
        "greedy": devices.adds(100, 10**12),
        "huge": devices.adds(3e38, 1),
        "dead": devices.dead(),
        "late": devices.late(7),
        "sorry": devices.fails("no-active-model", "nothing is active"),
    }
    model["fixed"] += np.float32(3e38)
    everyone = dict.fromkeys([*handlers, "absent"], Client())
    rounds = make(handlers)
    result = await rounds.run_training(
        plan(clients=everyone), model, nesting=nesting, evaluate=by_mean, progress=quiet
    )
    devices.release.set()
    np.testing.assert_array_equal(result.arrays["b"], np.full(4, 2.0))
    (record,) = result.records
    outcomes = {c.device: (c.ok, c.code) for c in record.clients}
    assert outcomes == {
        "good": (True, ""),
        "nan": (False, "bad-update"),
        "shape": (False, "bad-update"),
        "greedy": (False, "bad-update"),
        "huge": (False, "bad-update"),
        "dead": (False, "deadline-exceeded"),
        "late": (False, "deadline-exceeded"),
        "sorry": (False, "no-active-model"),
        "absent": (False, "offline"),
    }
    why = {c.device: c.why for c in record.clients}
    assert "finite" in why["nan"]
    assert "shape" in why["shape"]
    assert "num-examples" in why["greedy"]
    assert "finite" in why["huge"]
    assert (await rounds.records())[0] == record


async def test_no_client_changes_nothing(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
    tmp_path: Path,
) -> None:
    rounds = make({"full": devices.fails("conflict", "another slice"), "half": devices.dead()})
    with pytest.raises(NoClientsError, match=r"full: another slice \[conflict\].*no answer"):
        await train(rounds, plan(), model, nesting)
    assert Checkpoints(tmp_path / "runs" / "run-1").load() is None
    (record,) = await rounds.records("run-1")
    assert [c.code for c in record.clients] == ["conflict", "deadline-exceeded", "offline"]
    with pytest.raises(NoClientsError, match="at least one device"):
        await train(rounds, plan(clients={}), model, nesting)


async def test_too_few_good_clients_end_the_run(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
) -> None:
    rounds = make({"full": devices.adds(1, 1), "half": devices.fails("conflict", "no")})
    with pytest.raises(NoClientsError, match="1 usable"):
        await train(rounds, plan(min_clients=2), model, nesting)


async def test_a_run_goes_on_after_an_exception_in_the_middle(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
) -> None:
    calls = 0

    def breaks(arrays: Arrays) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ZeroDivisionError
        return by_mean(arrays)

    asked = plan(rounds=4)
    handlers = {"full": devices.adds(1, 1)}
    with pytest.raises(ZeroDivisionError):
        await make(handlers).run_training(
            asked, model, nesting=nesting, evaluate=breaks, progress=quiet
        )
    assert len(devices.seen) == 3
    again = make(handlers)
    result = await again.run_training(
        asked, model, nesting=nesting, evaluate=by_mean, progress=quiet
    )
    assert [task.number for task, _ in devices.seen] == [1, 2, 3, 3, 4]
    np.testing.assert_array_equal(devices.seen[3][1]["b"], np.full(4, 2.0))
    np.testing.assert_array_equal(result.arrays["b"], np.full(4, 4.0))
    assert [r.number for r in result.records] == [1, 2, 3, 4]
    assert tuple(await again.records("run-1")) == result.records
    finished = await train(again, asked, model, nesting)
    np.testing.assert_array_equal(finished["b"], result.arrays["b"])
    assert len(devices.seen) == 5, "a finished run is not played again"


async def test_a_run_id_belongs_to_one_model(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
) -> None:
    rounds = make({"full": devices.adds(1, 1)})
    await train(rounds, plan(), model, nesting)
    with pytest.raises(ConflictError, match="another run id"):
        await train(rounds, plan(model="m2"), model, nesting)
    with pytest.raises(ConflictError, match="another run id"):
        await train(rounds, plan(), {"b": model["b"]}, nesting)


async def test_a_cancelled_run_stops_at_once_and_frees_its_name(
    make: Make,
    devices: Devices,
    model: Arrays,
    nesting: Nesting,
    until: Until,
) -> None:
    rounds = make({"full": devices.late(1)})
    asked = plan(timeout_s=60)
    running = asyncio.create_task(train(rounds, asked, model, nesting))
    await until(lambda: rounds._running == {"run-1"})
    with pytest.raises(ConflictError, match="under way"):
        await train(rounds, asked, model, nesting)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert rounds._running == set()
    devices.release.set()


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 0},
        {"rounds": 10**9},
        {"clients": {"a": Client(0.0)}},
        {"clients": {"a": Client(1.5)}},
        {"run": "../../etc"},
        {"run": ""},
    ],
)
async def test_plans_out_of_range_are_refused(
    make: Make,
    model: Arrays,
    nesting: Nesting,
    change: dict[str, Any],
) -> None:
    with pytest.raises(MalformedMessageError):
        await train(make({}), plan(**change), model, nesting)


def site(seed: int) -> Moments:
    values = np.random.default_rng(seed).normal(50, 5, (40, 2)).astype(np.float32)
    return moments([(values, np.ones_like(values))], sensors=SENSORS, lags=2)


async def test_statistics_are_the_sum_of_the_sites(
    make: Make,
    devices: Devices,
) -> None:
    handlers = {f"s{i}": devices.sends(lambda _, i=i: site(i).arrays(), 38) for i in range(3)}
    liar = {**site(9).arrays(), "n": np.array([1.0])}
    handlers |= {"liar": devices.sends(lambda _: liar), "dead": devices.dead()}
    asked = StatisticsPlan(
        run="stat-1", devices=tuple(handlers), sensors=SENSORS, step_ms=500, lags=2, timeout_s=0.5
    )
    rounds = make(handlers)
    result = await rounds.run_statistics(asked, quiet)
    expected = site(0).add(site(1)).add(site(2))
    assert result.moments.n == expected.n == 3 * 38
    np.testing.assert_allclose(result.moments.zz, expected.zz, rtol=1e-14)
    np.testing.assert_allclose(result.moments.zy, expected.zy, rtol=1e-14)
    outcomes = {c.device: (c.ok, c.code, c.examples) for c in result.record.clients}
    assert outcomes["s1"] == (True, "", 38)
    assert outcomes["liar"] == (False, "bad-update", 0)
    assert outcomes["dead"] == (False, "deadline-exceeded", 0)
    assert result.record.metrics == {"rows": 114, "sites": 3}
    task, arrays = devices.seen[0]
    assert (task.kind, task.lags, task.step_ms, task.digest) == ("statistics", 2, 500, "")
    assert arrays == {}
    assert await rounds.records("stat-1") == [result.record]


async def test_statistics_of_nobody_are_an_error(
    make: Make,
    devices: Devices,
) -> None:
    asked = StatisticsPlan(run="s", devices=("x", "y"), sensors=SENSORS, step_ms=1, timeout_s=0.3)
    rounds = make({"x": devices.fails("training-failed", "wait for telemetry")})
    with pytest.raises(NoClientsError, match=r"wait for telemetry.*not connected"):
        await rounds.run_statistics(asked, quiet)
