"""Everything that crosses the fleet's MQTT connection, enrolment, and measurements, versioned.

Unknown fields are ignored, so that a newer peer can add some; a message of another `schema` is
refused. Times are UTC milliseconds since 1970.
"""

from typing import Annotated, Literal, TypeVar

import msgspec

from aimass_shared.errors import BodyTooLargeError, MalformedMessageError
from aimass_shared.slices import Board

SCHEMA = 1
MAX_MESSAGE_BYTES = 1 << 20


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages."""

    schema: int = SCHEMA


class AgentStats(msgspec.Struct, frozen=True):
    """What a device has done since it started; latencies of local predictions, in milliseconds.

    `drift` is of the sensors that drift most, by name (see `aimass_shared.drift`).
    """

    predictions: int = 0
    handed_off: int = 0
    refused: int = 0
    late: int = 0
    alarms: int = 0
    rows: int = 0
    rejected_messages: int = 0
    outbox_pending: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    rss_mib: float = 0.0
    drift: dict[str, float] = {}


class DeviceState(Message, frozen=True, kw_only=True):
    """`up/state`, retained: birth, heartbeat, and (online = false) last will."""

    online: bool
    session: str
    ts: int
    stats: AgentStats = AgentStats()


class ReleaseRef(msgspec.Struct, frozen=True):
    """A release as the fleet names it: the TUF target `path` of its manifest, and one slice."""

    release: str
    path: str
    slice: str


class Desired(Message, frozen=True, kw_only=True):
    """`down/desired`, retained: what a device shall run. Applied only if `v` grew."""

    v: int
    ts: int
    release: ReleaseRef | None = None


ReportedState = Literal["idle", "applying", "applied", "rejected"]


class Reported(Message, frozen=True, kw_only=True):
    """`up/reported`, retained: what a device runs, and how it took the last desired state.

    `code` and `why` are those of the error when `state` is "rejected".
    """

    v: int
    ts: int
    state: ReportedState
    release: ReleaseRef | None = None
    code: str = ""
    why: str = ""


Place = Literal["local", "cloud"]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One window's result, as devices publish and the cloud stores it.

    Attributes:
        window_end: time of the window's last row. sequence: count of windows since the first row.
        score, threshold: the alarm score against its limit.
        alarm: whether the alarm rule holds. top_sensors: whom it blames, worst first.
        contributions: how much of the score is due to each of `top_sensors`.
        coverage: share of measured values in the window.
        forecast: first row of the forecast, in the sensors' units.
        service_ms: time from the complete window to the result.
    """

    model: str
    release: str
    slice: str
    sequence: int
    window_end: int
    score: float
    threshold: float
    alarm: bool
    top_sensors: tuple[str, ...]
    coverage: float
    place: Place
    service_ms: float
    forecast: tuple[float, ...] = ()
    contributions: tuple[float, ...] = ()


class StreamItem(msgspec.Struct, frozen=True):
    """One row of an outbox: `id` grows by one within an epoch, `body` is JSON of the stream."""

    id: int
    body: msgspec.Raw


class StreamBatch(Message, frozen=True, kw_only=True):
    """`up/d/{stream}`: rows in the order of their ids. A new database is a new epoch.

    Attributes:
        after: id of the row before the first one, as sent; 0 = the sender has none before these.
            See `aimass_shared.streams`.
    """

    epoch: str
    items: tuple[StreamItem, ...]
    after: int = 0


class StreamAck(Message, frozen=True, kw_only=True):
    """`down/ack/{stream}`: every row with `id <= upto` is stored; the device may delete it."""

    epoch: str
    upto: int


RoundKind = Literal["statistics", "train"]


class RoundTask(Message, frozen=True, kw_only=True):
    """`down/round/{task}`: an invitation, with the digest of the blob that holds the arrays.

    Attributes:
        task: id of this message; the reply's topic and file carry it.
        run, number: the federated run and its round (1, 2, ...).
        deadline: UTC ms after which a reply is not read any more.
        slice: name of the slice whose `train` file the device runs ("" for statistics).
        digest, size: blob with the arrays in the update codec ("" and 0 where none is sent).
        sensors: channels in the order in which the arrays have them. step_ms: time between rows.
        lags: rows of history per regression row (statistics only).
        epochs, learning_rate, batch: local training.
    """

    task: str
    run: str
    number: int
    kind: RoundKind
    deadline: int
    slice: str = ""
    digest: str = ""
    size: int = 0
    sensors: tuple[str, ...] = ()
    step_ms: int = 0
    lags: int = 2
    epochs: int = 1
    learning_rate: float = 1e-3
    seed: int = 0


class RoundReply(Message, frozen=True, kw_only=True):
    """`up/round/{task}`: the digest of the uploaded update, or the error's `code` and `why`."""

    task: str
    ok: bool
    digest: str = ""
    size: int = 0
    examples: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] = {}
    code: str = ""
    why: str = ""


class Inventory(msgspec.Struct, frozen=True):
    """What a device is: its board, and the versions that a release may ask for."""

    board: Board
    machine: str
    python: str
    agent: str
    runtime: str
    providers: tuple[str, ...] = ()


Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
"""Of any time, memory or energy; not a number and infinity are refused."""
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]


class SliceMeasured(msgspec.Struct, frozen=True, kw_only=True):
    """What one slice costs on one device, at one batch size; measured by `aimass-edge bench`.

    Attributes:
        board: its profile, with "(simulated)" where another machine stands in for it.
        provider: what executed the model. runtime: with its version, such as `onnxruntime 1.32.0`.
        batch: windows in a run. runs: how many were timed. at: when, UTC ms.
        p50_ms, p99_ms: wall time of a window (of a run, divided by its windows).
        thread_ms: median processor time of a window in the calling thread.
        per_s: windows a second, one run after the other.
        load_s: fastest time from the file to a session that can run.
        rss_mib: most resident memory of the process that ran it. model_mib: how much more that is
            than before the model was loaded.
        energy_mj: of a window, idle power included; None where the board does not tell.
        temperature_c: highest of the board at the end; None where it does not tell.
    """

    model: Word
    release: Word
    slice: Word
    board: Word
    provider: Word
    runtime: Word
    batch: Count
    runs: Count
    p50_ms: Amount
    p99_ms: Amount
    thread_ms: Amount
    per_s: Amount
    load_s: Amount
    rss_mib: Amount
    model_mib: Amount
    energy_mj: Amount | None = None
    temperature_c: Annotated[float, msgspec.Meta(ge=-300, le=1000)] | None = None
    at: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0


class Measurements(Message, frozen=True, kw_only=True):
    """`POST /api/v1/devices/{id}/measurements`: what a device measured of itself."""

    measured: Annotated[tuple[SliceMeasured, ...], msgspec.Meta(max_length=256)]


class EnrollRequest(Message, frozen=True, kw_only=True):
    """`POST /api/v1/enroll`: the join token, a CSR (PEM) of the device's own key, what it is."""

    token: str
    csr: str
    inventory: Inventory


class BrokerAddress(msgspec.Struct, frozen=True):
    """How devices reach the fleet's broker. `version` is 5 or 4 (MQTT 3.1.1).

    `host` is "" where the broker is on the coordinator's machine, under every name of it.
    """

    host: str
    port: int
    tls: bool
    version: Literal[4, 5] = 5


class EnrollReply(Message, frozen=True, kw_only=True):
    """Identity and addresses: certificate chain and CA (PEM), TUF root (JSON text), broker."""

    device: str
    site: str
    channel: str
    certificate: str
    ca: str
    tuf_root: str
    broker: BrokerAddress


M = TypeVar("M", bound=Message)


def encode(message: msgspec.Struct) -> bytes:
    """JSON bytes of a message."""
    return msgspec.json.encode(message)


def decode(raw: bytes, kind: type[M]) -> M:
    """Read a message of a kind.

    Raises:
        BodyTooLargeError: it is over `MAX_MESSAGE_BYTES`.
        MalformedMessageError: it does not decode, or has a schema that this version does not know.
    """
    if len(raw) > MAX_MESSAGE_BYTES:
        raise BodyTooLargeError(
            f"{kind.__name__} has {len(raw)} bytes, the limit is {MAX_MESSAGE_BYTES}"
        )
    try:
        message = msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedMessageError(f"{kind.__name__} does not decode: {error}") from error
    if message.schema != SCHEMA:
        raise MalformedMessageError(
            f"{kind.__name__} has schema {message.schema}, this version knows {SCHEMA}"
        )
    return message
