"""The grid: every message ends, once; and the private names of flwr that it stands on."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from aimass_cloud.federation import wire
from aimass_cloud.federation.grid import AimassGrid
from aimass_cloud.federation.plans import Client, Nesting
from aimass_cloud.federation.strategy import NestedFedAvg
from aimass_cloud.federation.transport import Answer, Handler, Inbox, Invitation, LocalTransport
from aimass_shared.errors import BadUpdateError, BrokerUnavailableError, ConflictError
from aimass_shared.messages import RoundReply, RoundTask
from aimass_shared.updates import decode, encode

Arrays = dict[str, NDArray[Any]]
Devices = Any  # the fixture's class lives in conftest
Wait = Callable[[Callable[[], bool]], None]


class Recorder(LocalTransport):
    """A local transport whose inbox and invitations a test can get hold of."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        super().__init__(handlers)
        self.sent: list[Invitation] = []
        self.inbox: Inbox | None = None

    def send(self, invitation: Invitation, inbox: Inbox) -> int:
        self.sent.append(invitation)
        self.inbox = inbox
        return super().send(invitation, inbox)


def question(node: int, arrays: Arrays, ttl: float = 10.0) -> Message:
    content = RecordDict(
        {"arrays": wire.record_of(arrays), "config": ConfigRecord({"run": "r", "server-round": 3})}
    )
    return Message(content, node, wire.TRAIN, ttl=ttl)


def ask(
    handlers: dict[str, Handler], arrays: Arrays, timeout: float = 10.0
) -> tuple[AimassGrid, dict[str, Message]]:
    grid = AimassGrid(LocalTransport(handlers), 7)
    messages = [question(node, arrays) for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages, timeout=timeout)
    return grid, {grid.device(reply.metadata.src_node_id): reply for reply in replies}


def test_flwr_still_has_the_private_names_that_are_used() -> None:
    assert SUPERLINK_NODE_ID == 1
    assert isinstance(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, int)
    assert Run.create_empty(5).run_id == 5
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 5, 1, 1
    message = Message(RecordDict(), 9, "query.statistics", ttl=3.0)
    message.metadata.__dict__.update(_run_id=6, _message_id="m")
    assert (message.metadata.run_id, message.metadata.message_id) == (6, "m")
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "m"
    assert (reply.metadata.src_node_id, reply.metadata.run_id) == (9, 6)


def test_flwr_sends_no_telemetry() -> None:
    from flwr.supercore import telemetry  # noqa: PLC0415 - after our package has set the switch

    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"


def test_changes_come_back_as_whole_arrays(devices: Devices, model: Arrays) -> None:
    grid, replies = ask({"one": devices.adds(0.5, 3), "two": devices.adds(-1.0, 4)}, model)
    one = wire.content_arrays(replies["one"])
    np.testing.assert_array_equal(one["w"], model["w"] + 0.5)
    np.testing.assert_array_equal(wire.content_arrays(replies["two"])["b"], model["b"] - 1.0)
    metrics = next(iter(replies["one"].content.metric_records.values()))
    assert metrics[wire.EXAMPLES] == 3
    task, arrays = devices.seen[0]
    assert (task.number, task.kind, task.run) == (3, "train", "r")
    assert arrays.keys() == model.keys()
    assert all(0 < e.seconds < 10 and e.bytes_down and e.bytes_up for e in grid.exchanges.values())


def test_what_a_device_did_not_train_stays(devices: Devices, model: Arrays) -> None:
    part = devices.sends(lambda _: {"b": np.ones(4, np.float32)})
    _, replies = ask({"one": part}, model)
    arrays = wire.content_arrays(replies["one"])
    np.testing.assert_array_equal(arrays["w"], model["w"])
    np.testing.assert_array_equal(arrays["b"], np.ones(4))


def test_a_lost_device_fails_at_once(devices: Devices, model: Arrays, wait_until: Wait) -> None:
    transport = Recorder({"good": devices.adds(1.0, 1), "dead": devices.dead()})
    grid = AimassGrid(transport, 7)
    messages = [question(node, model, ttl=60) for node in grid.get_node_ids()]

    def lose() -> None:
        wait_until(lambda: len(transport.sent) == 2)
        transport.lose("dead")

    threading.Thread(target=lose).start()
    start = time.monotonic()
    replies = list(grid.send_and_receive(messages))
    assert time.monotonic() - start < 5
    failed = [reply for reply in replies if reply.has_error()]
    assert len(replies) == 2
    assert [wire.failure_of(reply)[0] for reply in failed] == ["broker-unavailable"]


def test_a_device_that_cannot_be_invited_has_failed(devices: Devices, model: Arrays) -> None:
    transport = LocalTransport({"one": devices.adds(1.0, 1), "gone": devices.dead()})
    grid = AimassGrid(transport, 7)
    nodes = list(grid.get_node_ids())
    transport.lose("gone")
    replies = list(grid.send_and_receive([question(node, model) for node in nodes]))
    assert sorted(reply.has_error() for reply in replies) == [False, True]


def test_a_dead_device_ends_with_its_time_to_live(devices: Devices, model: Arrays) -> None:
    start = time.monotonic()
    _, replies = ask({"one": devices.adds(1.0, 1), "dead": devices.dead()}, model, timeout=0.3)
    assert 0.25 < time.monotonic() - start < 5
    assert not replies["one"].has_error()
    assert wire.failure_of(replies["dead"])[0] == "deadline-exceeded"


def test_late_and_second_answers_are_dropped(
    devices: Devices,
    model: Arrays,
    wait_until: Wait,
) -> None:
    transport = Recorder({"late": devices.late(5.0), "one": devices.adds(1.0, 1)})
    grid = AimassGrid(transport, 7)
    messages = [question(node, model) for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages, timeout=0.2))
    assert len(replies) == 2
    devices.release.set()
    wait_until(lambda: len(devices.seen) == 2)
    assert transport.inbox is not None
    for invitation in transport.sent:
        again = RoundReply(task=invitation.task.task, ok=False, code="x", why="second")
        transport.inbox.on_answer(Answer(again, b"", 9))
    names = [invitation.task.task for invitation in transport.sent]
    assert list(grid.pull_messages(names)) == []
    assert sum(reply.has_error() for reply in replies) == 1


def test_the_first_of_two_answers_counts(model: Arrays, devices: Devices) -> None:
    transport = Recorder({"dead": devices.dead()})
    grid = AimassGrid(transport, 7)
    (name,) = grid.push_messages([question(node, model) for node in grid.get_node_ids()])
    for why in ("first", "second"):
        reply = RoundReply(task=name, ok=False, code="conflict", why=why)
        grid.on_answer(Answer(reply, b"", 1))
    (got,) = grid.pull_messages([name])
    assert wire.failure_of(got) == ("conflict", "first")
    assert list(grid.pull_messages([name])) == []


def test_closing_wakes_who_waits(devices: Devices, model: Arrays, wait_until: Wait) -> None:
    transport = Recorder({"dead": devices.dead()})
    grid = AimassGrid(transport, 7)

    def close() -> None:
        wait_until(lambda: bool(transport.sent))
        grid.close()

    threading.Thread(target=close).start()
    with pytest.raises(ConflictError, match="stopped"):
        grid.send_and_receive([question(node, model, 60) for node in grid.get_node_ids()])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"w": np.full((4, 4), np.nan, np.float64)}, "AIU1"),
        ({"w": np.zeros((2, 2), np.float32)}, "shape"),
        ({"other": np.zeros(1, np.float32)}, "no parameter"),
        ({}, "lacks"),
    ],
)
def test_a_bad_update_is_a_failure_with_its_reason(model: Arrays, change: Arrays, why: str) -> None:
    def handle(task: RoundTask, _blob: bytes) -> tuple[RoundReply, bytes]:
        try:
            raw = encode(change, {"task": task.task})
        except BadUpdateError:
            raw = b"not finite, so not encoded"
        return RoundReply(task=task.task, ok=True, size=len(raw), examples=1), raw

    _, replies = ask({"one": handle}, model)
    code, reason = wire.failure_of(replies["one"])
    assert code == "bad-update"
    assert why in reason


def test_an_update_of_another_task_is_refused(model: Arrays, devices: Devices) -> None:
    healthy = devices.adds(1.0, 1)

    def handle(task: RoundTask, blob: bytes) -> tuple[RoundReply, bytes]:
        reply, raw = healthy(task, blob)
        update = decode(raw)
        return reply, encode(update.arrays, {"task": "older"})

    _, replies = ask({"one": handle}, model)
    assert "another task" in wire.failure_of(replies["one"])[1]


def test_a_crashing_device_is_a_failure(model: Arrays) -> None:
    def handle(_task: object, _blob: bytes) -> None:
        raise ZeroDivisionError

    _, replies = ask({"one": handle}, model)
    assert wire.failure_of(replies["one"])[0] == "internal"


@pytest.mark.parametrize("kind", [FedAvg, FedMedian, FedAdam])
def test_stock_strategies_of_flower_run_over_the_grid(
    devices: Devices,
    model: Arrays,
    kind: type[FedAvg],
) -> None:
    handlers = {"a": devices.adds(1.0, 1), "b": devices.adds(1.0, 2), "c": devices.adds(1.0, 1)}
    grid = AimassGrid(LocalTransport(handlers), 7)
    strategy = kind(fraction_evaluate=0.0)
    result = strategy.start(grid, wire.record_of(model), num_rounds=2, timeout=20)
    assert len(devices.seen) == 6
    moved = wire.arrays_of(result.arrays)["b"] - model["b"]
    if kind is not FedAdam:
        np.testing.assert_allclose(moved, 2.0)
    assert (moved > 0).all()


def strategy_replies(
    model: Arrays, nesting: Nesting, metrics: list[dict[str, float]]
) -> tuple[NestedFedAvg, list[Message]]:
    """A strategy and hand-made whole replies to its messages, one for each set of metrics."""
    clients = {wire.node_id(f"d{i}"): Client() for i in range(len(metrics))}
    strategy = NestedFedAvg(clients, nesting, ttl_s=5)
    never: dict[str, Handler] = {f"d{i}": lambda _t, _b: None for i in range(len(metrics))}
    grid = AimassGrid(LocalTransport(never), 7)
    messages = strategy.configure_train(1, wire.record_of(model), ConfigRecord(), grid)
    arrays = {name: array + 1 for name, array in model.items()}
    by_node = {wire.node_id(f"d{i}"): m for i, m in enumerate(metrics)}
    replies = [wire.content_reply(m, arrays, by_node[m.metadata.dst_node_id]) for m in messages]
    return strategy, replies


def test_one_client_cannot_take_the_whole_average(model: Arrays, nesting: Nesting) -> None:
    metrics = [{wire.EXAMPLES: 5, wire.LOSS: 2.0}, {wire.EXAMPLES: 1e12}, {wire.LOSS: 1.0}]
    strategy, replies = strategy_replies(model, nesting, metrics)
    arrays, found = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert found is not None
    assert dict(found) == {wire.EXAMPLES: 5, wire.LOSS: 2.0}
    assert strategy.refusals.keys() == {wire.node_id("d1"), wire.node_id("d2")}
    np.testing.assert_allclose(wire.arrays_of(arrays)["b"], model["b"] + 1)


def test_no_usable_reply_is_no_model(model: Arrays, nesting: Nesting) -> None:
    strategy, replies = strategy_replies(model, nesting, [{}, {wire.EXAMPLES: 0}])
    assert strategy.aggregate_train(1, replies) == (None, None)
    assert strategy.aggregate_train(1, []) == (None, None)


def test_a_stranger_is_refused(model: Arrays, nesting: Nesting) -> None:
    strategy, replies = strategy_replies(model, nesting, [{wire.EXAMPLES: 1}])
    stranger = question(wire.node_id("stranger"), model)
    reply = wire.content_reply(stranger, model, {wire.EXAMPLES: 1})
    strategy.aggregate_train(1, [*replies, reply])
    assert "not invited" in strategy.refusals[wire.node_id("stranger")][1]


def test_a_reply_with_two_sets_of_arrays_is_refused(model: Arrays, nesting: Nesting) -> None:
    strategy, (reply,) = strategy_replies(model, nesting, [{wire.EXAMPLES: 1}])
    reply.content = RecordDict(
        {
            "a": wire.record_of(model),
            "b": wire.record_of(model),
            "m": MetricRecord({wire.EXAMPLES: 1}),
        }
    )
    assert strategy.aggregate_train(1, [reply]) == (None, None)
    assert "one set" in next(iter(strategy.refusals.values()))[1]


def test_offline_devices_raise_when_sent_to(devices: Devices, model: Arrays) -> None:
    transport = LocalTransport({})
    grid = AimassGrid(transport, 7)
    invitation = wire.invitation_of(question(wire.node_id("x"), model), "x")
    with pytest.raises(BrokerUnavailableError):
        transport.send(invitation, grid)
    assert devices.seen == []
