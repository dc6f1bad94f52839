"""Flower's FedAvg for clients of different widths, behind a guard.

Each client gets the part of the model that its slice has, and the parts are averaged where they
lie in the whole (`aimass_cloud.federation.averaging`). A reply that the guard refuses is as good as
none; the round goes on with the others, and the reason is kept.
"""

import math
from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from aimass_cloud.federation.averaging import Contribution, average, cut
from aimass_cloud.federation.guard import MAX_EXAMPLES, check_arrays, check_examples
from aimass_cloud.federation.plans import Arrays, Client, Nesting
from aimass_cloud.federation.wire import (
    ARRAYS,
    CONFIG,
    EXAMPLES,
    LOSS,
    TRAIN,
    arrays_of,
    content_arrays,
    failure_of,
    record_of,
)
from aimass_shared.errors import BadUpdateError


class NestedFedAvg(FedAvg):
    """FedAvg over nested widths.

    Args:
        clients: who takes part, by Flower's node id. nesting: what a width holds of a parameter.
        ttl_s: how long a message lives. max_examples: a client that claims more is refused.
    """

    def __init__(
        self,
        clients: Mapping[int, Client],
        nesting: Nesting,
        *,
        ttl_s: float,
        max_examples: int = MAX_EXAMPLES,
    ) -> None:
        super().__init__(
            fraction_evaluate=0.0,
            min_train_nodes=1,
            min_available_nodes=1,
            weighted_by_key=EXAMPLES,
            arrayrecord_key=ARRAYS,
            configrecord_key=CONFIG,
        )
        self._clients = clients
        self._nesting = nesting
        self._ttl_s = ttl_s
        self._max_examples = max_examples
        self._full: Arrays = {}
        self.refusals: dict[int, tuple[str, str]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message for each client that can be reached, with the arrays of its width."""
        self._full = arrays_of(arrays)
        self.refusals = {}
        parts: dict[float, ArrayRecord] = {}
        for client in self._clients.values():
            if client.width not in parts:
                parts[client.width] = record_of(cut(self._full, self._nesting, client.width))
        reachable = [node for node in grid.get_node_ids() if node in self._clients]
        own = ConfigRecord({**config, "server-round": server_round})
        return [self._message(node, parts, own) for node in reachable]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The average of what the guard lets pass, or (None, None) if that is nothing."""
        del server_round
        parts: list[Contribution] = []
        losses: list[tuple[int, float]] = []
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                self.refusals[node] = failure_of(reply)
                continue
            try:
                parts.append(self._contribution(reply))
            except BadUpdateError as error:
                self.refusals[node] = (error.code, error.detail)
                continue
            losses.append((parts[-1].examples, _loss(reply)))
        if not parts:
            return None, None
        averaged = average(self._full, self._nesting, parts)
        return record_of(averaged), _metrics(losses)

    def _message(
        self, node: int, parts: Mapping[float, ArrayRecord], config: ConfigRecord
    ) -> Message:
        client = self._clients[node]
        own = ConfigRecord({**config, "slice": client.slice})
        content = RecordDict({ARRAYS: parts[client.width], CONFIG: own})
        group = str(config["server-round"])
        return Message(content, node, TRAIN, ttl=self._ttl_s, group_id=group)

    def _contribution(self, reply: Message) -> Contribution:
        """What a reply adds.

        Raises:
            BadUpdateError: the guard refuses it.
        """
        client = self._clients.get(reply.metadata.src_node_id)
        if client is None:
            raise BadUpdateError("the client was not invited")
        arrays = content_arrays(reply)
        shapes = {
            name: array.shape
            for name, array in cut(self._full, self._nesting, client.width).items()
        }
        check_arrays(arrays, shapes, whole=True)
        examples = check_examples(_metric(reply, EXAMPLES), self._max_examples)
        return Contribution(arrays, client.width, examples)


def _metric(reply: Message, name: str) -> object:
    records = list(reply.content.metric_records.values())
    return records[0].get(name) if len(records) == 1 else None


def _loss(reply: Message) -> float:
    loss = _metric(reply, LOSS)
    return float(loss) if isinstance(loss, (int, float)) else float("nan")


def _metrics(losses: list[tuple[int, float]]) -> MetricRecord:
    """Examples in all, and the average loss where every client gave one."""
    total = sum(examples for examples, _ in losses)
    mean = sum(examples * loss for examples, loss in losses) / total
    metrics = MetricRecord({EXAMPLES: total})
    if math.isfinite(mean):
        metrics[LOSS] = mean
    return metrics
