"""The rule by which an outbox stream arrives whole: what both ends must agree on, without I/O.

Ids grow but may have gaps (a full outbox drops its oldest rows, several streams share the ids), so
a batch says what it follows: `after`. The receiver takes a batch only if it has everything up to
`after`; then a lost batch can never be acknowledged by the one behind it. Sending again is the
sender's matter, and dropping duplicates by (device, epoch, id) the receiver's.
"""

from itertools import pairwise

from aimass_shared.errors import MalformedMessageError
from aimass_shared.messages import StreamBatch

MAX_ID = (1 << 63) - 1  # what databases keep


def advance(upto: int, batch: StreamBatch) -> int | None:
    """How far the receiver has everything once it has stored `batch`; None if it leaves a gap.

    Args:
        upto: how far it has everything now; 0 if it has never seen this stream and epoch.
        batch: what came; rows with `id <= upto` in it are duplicates.

    Raises:
        MalformedMessageError: the batch is empty, or its ids do not grow within 63 bits.
    """
    ids = [batch.after, *(item.id for item in batch.items)]
    grows = all(first < second for first, second in pairwise(ids))
    if len(ids) == 1 or not grows or ids[0] < 0 or ids[-1] > MAX_ID:
        raise MalformedMessageError("a stream batch needs rows with growing ids above its `after`")
    return max(upto, ids[-1]) if batch.after <= upto else None
