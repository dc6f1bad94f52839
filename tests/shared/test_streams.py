"""When a receiver may move its `upto`."""

import msgspec
import pytest

from aimass_shared.errors import MalformedMessageError
from aimass_shared.messages import StreamBatch, StreamItem, decode, encode
from aimass_shared.streams import advance


def batch(*ids: int, after: int = 0) -> StreamBatch:
    items = tuple(StreamItem(number, msgspec.Raw(b"1")) for number in ids)
    return StreamBatch(epoch="e", items=items, after=after)


@pytest.mark.parametrize(
    ("upto", "message", "result"),
    [
        (0, batch(1, 2), 2),
        (0, batch(7, 9), 9),  # rows 1-6 were dropped or belong to other streams
        (2, batch(3, 8, after=2), 8),
        (2, batch(1, 2), 2),  # a duplicate moves nothing
        (2, batch(2, 3, after=1), 3),
        (2, batch(4, 5, after=3), None),  # the batch with 3 is missing
        (0, batch(4, 5, after=3), None),
    ],
)
def test_upto_moves_only_without_a_gap(upto: int, message: StreamBatch, result: int) -> None:
    assert advance(upto, message) == result


@pytest.mark.parametrize(
    "message",
    [
        *(batch(), batch(2, 2), batch(3, 2), batch(3, after=3), batch(0), batch(1, after=-1)),
        batch(1 << 63),
    ],
)
def test_nonsense_is_refused(message: StreamBatch) -> None:
    with pytest.raises(MalformedMessageError):
        advance(0, message)


def test_it_is_a_stream_batch_on_the_wire() -> None:
    message = batch(4, after=3)
    assert decode(encode(message), StreamBatch) == message
    assert decode(encode(message), StreamBatch).items == message.items
    plain = encode(StreamBatch(epoch="e", items=message.items))
    assert decode(plain, StreamBatch).after == 0
