"""Plays one round, from invitations to the new arrays, in the thread that calls it.

This is the door to flwr: importing it costs half a second, so `rounds` does it when a round starts.
It keeps nothing; what happened is in the record that it returns.
"""

import time
from collections.abc import Mapping
from typing import NamedTuple

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from aimass_cloud.federation.grid import AimassGrid
from aimass_cloud.federation.plans import (
    OFFLINE,
    Arrays,
    Client,
    ClientOutcome,
    Nesting,
    RoundRecord,
    StatisticsPlan,
    StatisticsResult,
    TrainingPlan,
)
from aimass_cloud.federation.statistics import sum_moments
from aimass_cloud.federation.strategy import NestedFedAvg
from aimass_cloud.federation.transport import Transport
from aimass_cloud.federation.wire import (
    CONFIG,
    EXAMPLES,
    STATISTICS,
    arrays_of,
    config_of,
    content_arrays,
    failure_of,
    node_id,
    record_of,
)

Failures = Mapping[str, tuple[str, str]]


class Played(NamedTuple):
    """A training round: the new arrays (None if nobody gave an update) and its record."""

    arrays: Arrays | None
    record: RoundRecord


class Engine:
    """The rounds of one run, one after the other."""

    def __init__(self, transport: Transport, run: str) -> None:
        self._grid = AimassGrid(transport, node_id(run))

    def close(self) -> None:
        """End a round that another thread plays: its `train` or `statistics` raises."""
        self._grid.close()

    def train(self, plan: TrainingPlan, number: int, *, arrays: Arrays, nesting: Nesting) -> Played:
        """One round of training.

        Raises:
            ConflictError: the engine was closed meanwhile.
        """
        started = time.monotonic()
        nodes = {node_id(device): client for device, client in plan.clients.items()}
        strategy = NestedFedAvg(nodes, nesting, ttl_s=plan.timeout_s)
        messages = strategy.configure_train(
            number, record_of(arrays), _training_config(plan, number), self._grid
        )
        replies = list(self._grid.send_and_receive(messages))
        averaged, metrics = strategy.aggregate_train(number, replies)
        failures = {self._grid.device(node): why for node, why in strategy.refusals.items()}
        record = RoundRecord(
            run=plan.run,
            number=number,
            kind="train",
            model=plan.model,
            clients=self._outcomes(plan.clients, replies, failures),
            seconds=time.monotonic() - started,
            bytes_up=self._bytes_up(replies),
            bytes_down=self._bytes_down(replies),
            metrics=_round_metrics(metrics or MetricRecord()),
            created=int(time.time() * 1000),
        )
        return Played(arrays_of(averaged) if averaged is not None else None, record)

    def statistics(self, plan: StatisticsPlan) -> StatisticsResult:
        """One statistics round; the moments count no rows if no site gave any.

        Raises:
            ConflictError: the engine was closed meanwhile.
        """
        started = time.monotonic()
        replies = list(self._grid.send_and_receive(self._questions(plan)))
        failures = {
            self._device(reply): failure_of(reply) for reply in replies if reply.has_error()
        }
        answers = {
            self._device(reply): content_arrays(reply) for reply in replies if not reply.has_error()
        }
        total, rows, refused = sum_moments(answers, sensors=plan.sensors, lags=plan.lags)
        failures |= {device: (error.code, error.detail) for device, error in refused.items()}
        record = RoundRecord(
            run=plan.run,
            number=1,
            kind="statistics",
            model="",
            clients=self._outcomes(dict.fromkeys(plan.devices, Client()), replies, failures),
            seconds=time.monotonic() - started,
            bytes_up=self._bytes_up(replies),
            bytes_down=self._bytes_down(replies),
            metrics={"rows": float(sum(rows.values())), "sites": float(len(rows))},
            created=int(time.time() * 1000),
        )
        return StatisticsResult(total, record)

    def _questions(self, plan: StatisticsPlan) -> list[Message]:
        config = config_of(
            {
                "run": plan.run,
                "sensors": list(plan.sensors),
                "step_ms": plan.step_ms,
                "lags": plan.lags,
            }
        )
        wanted = {node_id(device) for device in plan.devices}
        return [
            Message(RecordDict({CONFIG: config}), node, STATISTICS, ttl=plan.timeout_s)
            for node in self._grid.get_node_ids()
            if node in wanted
        ]

    def _outcomes(
        self, clients: Mapping[str, Client], replies: list[Message], failures: Failures
    ) -> tuple[ClientOutcome, ...]:
        answered = {self._device(reply): reply for reply in replies}
        return tuple(
            self._outcome(device, client, reply=answered.get(device), failure=failures.get(device))
            for device, client in clients.items()
        )

    def _outcome(
        self, device: str, client: Client, *, reply: Message | None, failure: tuple[str, str] | None
    ) -> ClientOutcome:
        if reply is None:
            why = "the device was not connected when the round began"
            return ClientOutcome(
                device=device,
                ok=False,
                slice=client.slice,
                width=client.width,
                code=OFFLINE,
                why=why,
            )
        exchange = self._grid.exchanges[reply.metadata.reply_to_message_id]
        metrics = _reply_metrics(reply)
        code, why = failure or ("", "")
        return ClientOutcome(
            device=device,
            ok=failure is None,
            slice=client.slice,
            width=client.width,
            examples=0 if failure else int(metrics.pop(EXAMPLES, 0.0)),
            seconds=exchange.seconds,
            bytes_up=exchange.bytes_up,
            bytes_down=exchange.bytes_down,
            metrics=metrics,
            code=code,
            why=why,
        )

    def _device(self, reply: Message) -> str:
        return self._grid.device(reply.metadata.src_node_id)

    def _bytes_up(self, replies: list[Message]) -> int:
        names = [reply.metadata.reply_to_message_id for reply in replies]
        return sum(self._grid.exchanges[name].bytes_up for name in names)

    def _bytes_down(self, replies: list[Message]) -> int:
        names = [reply.metadata.reply_to_message_id for reply in replies]
        return sum(self._grid.exchanges[name].bytes_down for name in names)


def _training_config(plan: TrainingPlan, number: int) -> ConfigRecord:
    return config_of(
        {
            "run": plan.run,
            "sensors": list(plan.sensors),
            "step_ms": plan.step_ms,
            "epochs": plan.epochs,
            "learning_rate": plan.learning_rate,
            "seed": plan.seed + number - 1,
            "precision": plan.precision,
        }
    )


def _round_metrics(metrics: MetricRecord) -> dict[str, float]:
    """A strategy's figures under the names of our records."""
    names = {EXAMPLES: "examples"}
    return {
        names.get(name, name): float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float))
    }


def _reply_metrics(reply: Message) -> dict[str, float]:
    if reply.has_error():
        return {}
    return {
        name: float(value)
        for record in reply.content.metric_records.values()
        for name, value in record.items()
        if isinstance(value, (int, float))
    }
