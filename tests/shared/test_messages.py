"""Messages between the parts: what is written reads back, and nothing else reads at all."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.errors import BodyTooLargeError, MalformedMessageError
from aimass_shared.messages import (
    MAX_MESSAGE_BYTES,
    AgentStats,
    Desired,
    DeviceState,
    ReleaseRef,
    Reported,
    RoundReply,
    RoundTask,
    StreamAck,
    decode,
    encode,
)

DESIRED = Desired(v=3, ts=1, release=ReleaseRef("r-1", "stable/m/r-1.json", "w0.50-int8"))
MESSAGES = [
    DESIRED,
    DeviceState(online=True, session="s", ts=1, stats=AgentStats(predictions=2)),
    Reported(v=3, ts=2, state="rejected", code="bad-digest", why="3 bytes, signed are 4"),
    RoundTask(task="t", run="r", number=1, kind="train", deadline=5, sensors=("A", "B")),
    RoundReply(task="t", ok=True, digest="ab", size=3, examples=7, metrics={"loss": 0.5}),
    StreamAck(epoch="e", upto=9),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_read_back(message: Desired) -> None:
    assert decode(encode(message), type(message)) == message


def test_a_newer_peer_may_add_fields() -> None:
    raw = msgspec.json.encode({**msgspec.to_builtins(DESIRED), "mood": "good"})
    assert decode(raw, Desired) == DESIRED


def test_another_schema_is_refused() -> None:
    raw = encode(msgspec.structs.replace(DESIRED, schema=2))
    with pytest.raises(MalformedMessageError, match="schema 2"):
        decode(raw, Desired)


def test_a_message_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(BodyTooLargeError, match=str(MAX_MESSAGE_BYTES)):
        decode(b" " * (MAX_MESSAGE_BYTES + 1), Desired)


def test_deeply_nested_nonsense_is_refused() -> None:
    raw = b'{"v":1,"ts":1,"mood":' + b"[" * 200_000
    with pytest.raises(MalformedMessageError):
        decode(raw, Desired)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode(b"\x00" + raw, Desired)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_json_that_is_no_message_is_refused(document: object) -> None:
    with pytest.raises(MalformedMessageError):
        decode(msgspec.json.encode(document), Desired)
