"""The database's tables. Times are UTC milliseconds since 1970; ids are text made by us."""

from sqlalchemy import JSON, BigInteger, Boolean, ForeignKey, Integer, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = JSON


class Table(DeclarativeBase):
    """Base of all tables."""


class ApiKeyRow(Table):
    """A credential of a person or a program; only the SHA-256 of the secret is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]] = mapped_column(Json)
    created: Mapped[int] = mapped_column(BigInteger)
    revoked: Mapped[bool] = mapped_column(Boolean, default=False)


class JoinTokenRow(Table):
    """A one-time token: consumed by compare-and-set on `uses_left`."""

    __tablename__ = "join_tokens"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    site: Mapped[str] = mapped_column(String(64))
    channel: Mapped[str] = mapped_column(String(64))
    expires: Mapped[int] = mapped_column(BigInteger)
    uses_left: Mapped[int] = mapped_column(Integer)


class DeviceRow(Table):
    """A device: identity, inventory, desired and reported state."""

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    site: Mapped[str] = mapped_column(String(64))
    channel: Mapped[str] = mapped_column(String(64))
    certificate: Mapped[str] = mapped_column(String)
    inventory: Mapped[dict[str, object]] = mapped_column(Json)
    enrolled: Mapped[int] = mapped_column(BigInteger)
    revoked: Mapped[bool] = mapped_column(Boolean, default=False)
    online: Mapped[bool] = mapped_column(Boolean, default=False)
    last_seen: Mapped[int] = mapped_column(BigInteger, default=0)
    stats: Mapped[dict[str, object]] = mapped_column(Json, default=dict)
    desired: Mapped[dict[str, object]] = mapped_column(Json, default=dict)
    reported: Mapped[dict[str, object]] = mapped_column(Json, default=dict)


class StreamRow(Table):
    """How far one outbox stream of a device is stored; written with the rows it speaks of."""

    __tablename__ = "streams"
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    stream: Mapped[str] = mapped_column(String(64), primary_key=True)
    epoch: Mapped[str] = mapped_column(String(64), primary_key=True)
    upto: Mapped[int] = mapped_column(BigInteger)


class PredictionRow(Table):
    """One prediction of a device; (device, epoch, item) is unique, so a re-sent row is one row."""

    __tablename__ = "predictions"
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    epoch: Mapped[str] = mapped_column(String(64), primary_key=True)
    item: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    window_end: Mapped[int] = mapped_column(BigInteger, index=True)
    release: Mapped[str] = mapped_column(String(64))
    score: Mapped[float]
    alarm: Mapped[bool]
    body: Mapped[bytes] = mapped_column(LargeBinary)


class MeasurementRow(Table):
    """What one slice costs on one device at one batch size, newest only; `body` is JSON."""

    __tablename__ = "measurements"
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    release: Mapped[str] = mapped_column(String(64), primary_key=True)
    slice: Mapped[str] = mapped_column(String(64), primary_key=True)
    batch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    model: Mapped[str] = mapped_column(String(64), index=True)
    at: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class ModelRow(Table):
    """A trained model: where it came from, how well it does, where its files are."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    recipe: Mapped[str] = mapped_column(String(64))
    parent: Mapped[str] = mapped_column(String(64), default="")
    parameters: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, object]] = mapped_column(Json)
    directory: Mapped[str] = mapped_column(String)
    created: Mapped[int] = mapped_column(BigInteger)


class ReleaseRow(Table):
    """A signed release; `manifest` is the canonical JSON that was signed."""

    __tablename__ = "releases"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(ForeignKey("models.id"))
    channel: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(String(256))
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[int] = mapped_column(BigInteger)


class RolloutRow(Table):
    """One release on its way to devices. `state`: running, succeeded, failed."""

    __tablename__ = "rollouts"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    release: Mapped[str] = mapped_column(ForeignKey("releases.id"))
    state: Mapped[str] = mapped_column(String(16))
    created: Mapped[int] = mapped_column(BigInteger)
    finished: Mapped[int] = mapped_column(BigInteger, default=0)


class RolloutDeviceRow(Table):
    """One device of a rollout. `state`: waiting, applying, applied, rejected."""

    __tablename__ = "rollout_devices"
    rollout: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), primary_key=True)
    device: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    slice: Mapped[str] = mapped_column(String(64))
    v: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    why: Mapped[str] = mapped_column(String, default="")


class RoundRow(Table):
    """One finished federated round of a run."""

    __tablename__ = "rounds"
    run: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(64), default="")
    clients: Mapped[list[dict[str, object]]] = mapped_column(Json)
    seconds: Mapped[float]
    bytes_up: Mapped[int] = mapped_column(BigInteger)
    bytes_down: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, object]] = mapped_column(Json)
    created: Mapped[int] = mapped_column(BigInteger)


class JobRow(Table):
    """Long work: training, slicing, rounds. `state`: running, succeeded, failed."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str] = mapped_column(String, default="")
    result: Mapped[dict[str, object]] = mapped_column(Json, default=dict)
    code: Mapped[str] = mapped_column(String(64), default="")
    created: Mapped[int] = mapped_column(BigInteger)
    finished: Mapped[int] = mapped_column(BigInteger, default=0)
