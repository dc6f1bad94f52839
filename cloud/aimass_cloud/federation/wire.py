"""Between Flower's messages and ours: what strategies see as whole arrays travels as changes.

A client sends how far its parameters moved, since changes survive few bits far better than the
parameters do; the base is added back here, so every strategy of Flower works unchanged.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray

from aimass_cloud.federation.guard import check_arrays
from aimass_cloud.federation.plans import Arrays
from aimass_cloud.federation.transport import Answer, Invitation
from aimass_shared.errors import BadUpdateError
from aimass_shared.messages import RoundTask
from aimass_shared.updates import Meta, decode, encode

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
EXAMPLES, LOSS = "num-examples", "loss"
TRAIN = MessageType.TRAIN
STATISTICS = f"{MessageType.QUERY}.statistics"
MAX_METRICS = 16


def node_id(device: str) -> int:
    """The number under which Flower knows a device: always the same, and positive in 63 bits."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "big") >> 1


def record_of(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Arrays as Flower carries them."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def arrays_of(record: ArrayRecord) -> Arrays:
    """Arrays as numpy has them."""
    return {name: array.numpy() for name, array in record.items()}


def content_arrays(message: Message) -> Arrays:
    """The arrays that a message carries; none if it carries none.

    Raises:
        BadUpdateError: it carries several sets of arrays.
    """
    records = list(message.content.array_records.values())
    if len(records) > 1:
        raise BadUpdateError("a message carries one set of arrays at most")
    return arrays_of(records[0]) if records else {}


def config_of(values: Mapping[str, Any]) -> ConfigRecord:
    """The fields of a task that are the same for all clients, for a strategy to pass on."""
    return ConfigRecord(dict(values))


def invitation_of(message: Message, device: str) -> Invitation:
    """The task and the arrays that a message of a strategy asks a device with.

    The message id is the task's id, and its time to live the deadline.
    """
    config = dict(next(iter(message.content.config_records.values()), ConfigRecord()))
    arrays = content_arrays(message)
    metadata = message.metadata
    fields = {
        "run": str(metadata.run_id),
        **{name: config[name] for name in RoundTask.__struct_fields__ if name in config},
        "task": metadata.message_id,
        "number": config.get("server-round", 1),
        "kind": "train" if metadata.message_type == TRAIN else "statistics",
        "deadline": int((metadata.created_at + metadata.ttl) * 1000),
    }
    task = msgspec.convert(fields, RoundTask)
    meta: Meta = {"precision": str(config.get("precision", "f32"))}
    return Invitation(device=device, task=task, blob=encode(arrays, meta) if arrays else b"")


def reply_of(message: Message, answer: Answer) -> Message:
    """A device's answer as the reply to the message of the strategy; never raises on its bytes."""
    reply = answer.reply
    if not reply.ok:
        return failure(message, reply.code, reply.why)
    try:
        arrays = _whole_arrays(message, answer)
    except BadUpdateError as error:
        return failure(message, error.code, error.detail)
    metrics: dict[str, float] = {
        name[:64]: value
        for name, value in list(reply.metrics.items())[:MAX_METRICS]
        if math.isfinite(value)
    }
    # An int outside 64 bits cannot be carried, so it is left to the guard as a float.
    metrics[EXAMPLES] = float(reply.examples)
    return content_reply(message, arrays, metrics)


def content_reply(message: Message, arrays: Arrays, metrics: Mapping[str, float]) -> Message:
    """A reply with arrays and metrics."""
    content = RecordDict({ARRAYS: record_of(arrays), METRICS: MetricRecord(dict(metrics))})
    return Message(content, reply_to=message)


def failure(message: Message, code: str, why: str) -> Message:
    """A reply that says why there is no update."""
    error = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    return Message(Error(error, f"{code[:64]}: {why[:512]}"), reply_to=message)


def failure_of(message: Message) -> tuple[str, str]:
    """Code and reason of a failed reply."""
    code, _, why = (message.error.reason or "internal: no reason given").partition(": ")
    return code, why


def _whole_arrays(message: Message, answer: Answer) -> Arrays:
    update = decode(answer.blob, max_bytes=len(answer.blob))
    if update.meta.get("task") != answer.reply.task:
        raise BadUpdateError("the update was made for another task")
    if message.metadata.message_type != TRAIN:
        return update.arrays
    base = content_arrays(message)
    shapes = {name: array.shape for name, array in base.items()}
    check_arrays(update.arrays, shapes, whole=False)
    with np.errstate(over="ignore"):  # what overflows is refused by the guard
        moved = {
            name: (base[name] + change).astype(base[name].dtype)
            for name, change in update.arrays.items()
        }
    return base | moved
