"""A release in one signed document: what the model expects, its slices, their files and digests.

The manifest is the only TUF target of a release (`<channel>/<model>/<release>.json`); it names
every file by SHA-256, so that trust in it is trust in all of them. Files travel as
content-addressed blobs. See also `aimass_shared.trust`.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from aimass_shared.errors import MalformedMessageError
from aimass_shared.slices import SliceCost, SliceSpec

SCHEMA = 2
MAX_MANIFEST_BYTES = 1 << 20
BYTES = "BYTES"
TaskKind = Literal["forecast", "classify", "match", "rank", "other"]
Role = Literal[
    "model",
    "train",
    "selftest",
    "vocabulary",
    "fleet",
    "tail",
    "plans",
    "stream-step",
    "stream-rest",
]
SensorKind: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]+$", max_length=64)]


class Sensor(msgspec.Struct, frozen=True):
    """One input channel: the name telemetry must carry, its unit, and what kind of thing it is.

    Attributes:
        kind: a word that the recipe gives a meaning to, such as `continuous` or `actuator`.
        label: for people. entity: the machine or line that it belongs to, "" for none.
    """

    name: str
    unit: str
    kind: SensorKind
    label: str = ""
    entity: str = ""


class TensorSpec(msgspec.Struct, frozen=True):
    """A tensor of a model. `datatype` as in the Open Inference Protocol; -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class AlarmRule(msgspec.Struct, frozen=True):
    """When a prediction is an alarm, and whom it blames.

    Attributes:
        score: output tensor `[batch]` that is compared with the threshold.
        threshold: calibrated on held-back normal operation.
        contribution: output tensor `[batch, sensors]`; the largest entries are blamed.
        consecutive: windows in a row over the threshold before the alarm is raised.
        top: how many sensors an alarm names.
    """

    score: str
    threshold: float
    contribution: str
    consecutive: int = 3
    top: int = 3


class Normal(msgspec.Struct, frozen=True):
    """Normal operation of a contract's sensors, in their units: what drift is measured against.

    Attributes:
        mean, deviation: of each sensor. error: deviation of the first row of its forecast.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    error: tuple[float, ...]


class Contract(msgspec.Struct, frozen=True):
    """What a model takes and gives back, and what it needs from telemetry, if anything.

    A model with sensors is fed from telemetry. Its inputs are `values` `[batch, window, sensors]`
    in the sensors' units and `mask` of the same shape (1 = measured, 0 = missing). Its outputs are
    `forecast` `[batch, horizon, sensors]` in the sensors' units, and those that `alarm` names.
    A model without sensors answers requests only; its tensors are what its recipe says. A tensor of
    BYTES has the shape `[batch]`: see `aimass_shared.vocabulary`.

    Attributes:
        task: what the outputs mean; "other" where nobody says, as of a user's own model.
        sensors: channels in the order of the last axis.
        step_ms: time between two rows of a window.
        window: rows of one input. horizon: rows of one forecast. stride: rows between two windows.
        alarm: when a prediction is an alarm; None where it never is.
        labels: names of the classes, in the order of the last axis of the probabilities.
        min_coverage: share of measured values below which no prediction is made.
        normal: what drift is measured against; None where nobody knows.
    """

    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: TaskKind = "forecast"
    sensors: tuple[Sensor, ...] = ()
    step_ms: int = 0
    window: int = 0
    horizon: int = 0
    alarm: AlarmRule | None = None
    labels: tuple[str, ...] = ()
    stride: int = 1
    min_coverage: float = 0.5
    normal: Normal | None = None

    @property
    def telemetry(self) -> bool:
        """Whether it is fed from telemetry; otherwise it answers requests only."""
        return bool(self.sensors)

    @property
    def needs(self) -> tuple[Role, ...]:
        """Roles of the files that each of its slices must have."""
        texts = any(spec.datatype == BYTES for spec in (*self.inputs, *self.outputs))
        return ("model", "selftest", "vocabulary") if texts else ("model", "selftest")


class FileRef(msgspec.Struct, frozen=True):
    """A file by content.

    Attributes:
        role: what it is for. "model" is what a device loads: of a cut slice that is the head, whose
            "tail" only the coordinator loads. "fleet" is `aimass_shared.fleet`'s, "plans" a
            `aimass_shared.planning.ProfileSet`.
    """

    role: Role
    name: str
    sha256: str
    size: int


class Halves(msgspec.Struct, frozen=True):
    """What the two parts of a cut slice take and give.

    All of it are tensors of the graph: where the contract has texts, these are their numbers.

    Attributes:
        takes: names of the model's inputs that the head needs.
        crossing: what the tail takes; of it the head gives all that is no input of the model.
        early: names of the model's outputs that the head gives; the tail gives the others.
        batched: whether the first axis of all that crosses is the batch, so that the tail can
            answer several requests in one run.
        max_abs_error: of both parts together against the whole, in float and without a codec.
    """

    takes: tuple[str, ...]
    crossing: tuple[TensorSpec, ...]
    early: tuple[str, ...] = ()
    batched: bool = False
    max_abs_error: float = 0.0


class SliceArtifact(msgspec.Struct, frozen=True):
    """One slice as slicing made it, before a release signs it.

    Attributes:
        files: role and path of each file, where it was made.
        tolerance: largest relative error (see `aimass_edge.update.selftest`) of the self-test.
        tolerances: the same by what runs the slice: "cpu", "tensorrt".
        latency_ms: of one sample on the reference processor, at most; 0 = nobody says.
        codec: of a cut slice, how what crosses is packed (`aimass_shared.activations`).
        halves: of a cut slice, what its parts take and give; None of a whole one.
    """

    spec: SliceSpec
    cost: SliceCost
    files: tuple[tuple[Role, str], ...]
    tolerance: float
    codec: str = ""
    halves: Halves | None = None
    tolerances: dict[str, float] = {}
    latency_ms: float = 0.0


class SliceEntry(msgspec.Struct, frozen=True):
    """One slice of a release: its cost and its files.

    Attributes:
        tolerance: largest relative error (see `aimass_edge.update.selftest`) of the self-test.
        tolerances: the same by what runs the slice: "cpu", "tensorrt".
        latency_ms: of one sample on the reference processor, at most; 0 = nobody says.
        codec: of a cut slice, how what crosses is packed (`aimass_shared.activations`).
        halves: of a cut slice, what its parts take and give; None of a whole one.
    """

    spec: SliceSpec
    cost: SliceCost
    files: tuple[FileRef, ...]
    tolerance: float
    codec: str = ""
    halves: Halves | None = None
    tolerances: dict[str, float] = {}
    latency_ms: float = 0.0

    @property
    def carried(self) -> tuple[FileRef, ...]:
        """What a device fetches: all but the tail."""
        return tuple(ref for ref in self.files if ref.role != "tail")

    def allowed(self, backend: str) -> float:
        """Largest relative error of the self-test on what runs the slice."""
        return self.tolerances.get(backend, self.tolerance)

    def has(self, role: Role) -> bool:
        """Whether it has a file with a role."""
        return any(ref.role == role for ref in self.files)

    def file(self, role: Role) -> FileRef:
        """The file with a role.

        Raises:
            MalformedMessageError: the slice has none.
        """
        for ref in self.files:
            if ref.role == role:
                return ref
        raise MalformedMessageError(f"slice {self.spec.name} has no {role} file")


class Manifest(msgspec.Struct, frozen=True):
    """One release. `created` is UTC milliseconds since 1970."""

    release: str
    model: str
    contract: Contract
    slices: tuple[SliceEntry, ...]
    created: int
    schema: int = SCHEMA

    def offers(self) -> dict[SliceSpec, SliceCost]:
        """The slices with their cost, as `aimass_shared.slices.choose` takes them."""
        return {entry.spec: entry.cost for entry in self.slices}

    def entry(self, name: str) -> SliceEntry:
        """The slice with a name.

        Raises:
            MalformedMessageError: the release has none of that name.
        """
        for entry in self.slices:
            if entry.spec.name == name:
                return entry
        raise MalformedMessageError(f"release {self.release} has no slice {name}")


def target_path(channel: str, model: str, release: str) -> str:
    """Path of a release's manifest among the TUF targets."""
    return f"{channel}/{model}/{release}.json"


def encode(manifest: Manifest) -> bytes:
    """Canonical bytes of a manifest: the same manifest always gives the same digest."""
    return msgspec.json.encode(manifest, order="sorted")


def decode(raw: bytes) -> Manifest:
    """Read a manifest whose bytes were verified.

    Raises:
        MalformedMessageError: the bytes are no manifest of a schema that this version knows.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        raise MalformedMessageError(
            f"manifest has {len(raw)} bytes, the limit is {MAX_MANIFEST_BYTES}"
        )
    try:
        schema = msgspec.json.decode(raw, type=_Head).schema  # first: the rest may be unknown
        if schema == SCHEMA:
            return msgspec.json.decode(raw, type=Manifest)
        if schema == 1:
            return msgspec.convert(_renewed(msgspec.json.decode(raw, type=_First)), Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedMessageError(f"manifest does not decode: {error}") from error
    raise MalformedMessageError(f"manifest has schema {schema}, this version knows 1 and {SCHEMA}")


class _Head(msgspec.Struct):
    schema: int = 0


class _First(msgspec.Struct):
    """Schema 1, of which only the costs of slices differ."""

    release: str
    model: str
    contract: dict[str, object]
    slices: tuple[dict[str, object], ...]
    created: int


def _renewed(first: _First) -> dict[str, object]:
    """What runs on devices since before goes on running: the error of a slice had another name."""
    slices = [
        {**one, "cost": {**cost, "val_error": cost.get("val_mse")}}
        for one in first.slices
        for cost in [one.get("cost")]
        if isinstance(cost, dict)
    ]
    return {**msgspec.structs.asdict(first), "slices": slices}
