"""STATE of a Sparkplug host application: `{"online": bool, "timestamp": ms}`, retained.

Spec: Sparkplug 3.0.0 section 6.4.28. When to send one is in `session`.
"""

import msgspec

from aimass_shared.errors import MalformedMessageError

MAX_STATE_BYTES = 1024


class State(msgspec.Struct, frozen=True):
    """Whether a host is online; `timestamp` is UTC ms of its CONNECT."""

    online: bool
    timestamp: int


def encode(state: State) -> bytes:
    """JSON bytes of a state."""
    return msgspec.json.encode(state)


def decode(raw: bytes) -> State:
    """Read a state.

    Raises:
        MalformedMessageError: it is too long or not such a JSON object.
    """
    if len(raw) > MAX_STATE_BYTES:
        raise MalformedMessageError(f"a host's STATE has {len(raw)} bytes, too many for one")
    try:
        return msgspec.json.decode(raw, type=State)
    except msgspec.DecodeError as error:
        raise MalformedMessageError(f"a host's STATE does not decode: {error}") from error
