"""What a plan can be, and what each one costs: measured once, corrected on the device.

A plan says which slice of a model answers a request, where it runs, and how its input or its
activations travel. Times of a profile are those of a reference machine; a device multiplies its own
part by one factor (see `Device`).
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from aimass_shared.errors import InvalidSettingError
from aimass_shared.slices import WHOLE, Precision, SliceSpec

Place = Literal["edge", "cloud", "split"]
NO_CODEC = "none"

MOST = 1e9
"""Of any time, factor or rate: products of two stay finite."""
Positive = Annotated[float, msgspec.Meta(gt=0, le=MOST)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=MOST)]
Memory = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Candidate(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """One way to answer a request.

    Attributes:
        width, precision, cut: the slice; `cut` is "whole" unless the place is "split".
        codec: how what goes up is packed, "none" for plain tensors and where nothing goes up.
        place: "edge" runs all here, "cloud" runs all there, "split" runs the head here and the
            tail there.
    """

    width: float
    precision: Precision
    place: Place
    cut: str = WHOLE
    codec: str = NO_CODEC

    @property
    def name(self) -> str:
        """Name in tables, such as `edge w0.50-int8` or `split w1.00-fp32-c12 int8+zlib`."""
        codec = "" if self.codec == NO_CODEC else f" {self.codec}"
        return f"{self.place} {SliceSpec(self.width, self.precision, self.cut).name}{codec}"


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a candidate costs and loses, for one request.

    Attributes:
        edge_ms: median time of the part that runs here, packing included, on the reference machine.
        edge_spread: standard deviation of the logarithm of that time, 0.1 for about 10 %.
        bytes_up: size of what goes up; 0 where nothing does.
        cloud_ms: median time of the part that runs there, unpacking included, as it was measured.
        cloud_spread: as `edge_spread`.
        memory_mib: resident memory that it needs here.
        loss: accuracy that it costs against the whole model in float, as a share of it.
    """

    candidate: Candidate
    edge_ms: NotNegative = 0.0
    edge_spread: NotNegative = 0.0
    bytes_up: Annotated[int, msgspec.Meta(ge=0)] = 0
    cloud_ms: NotNegative = 0.0
    cloud_spread: NotNegative = 0.0
    memory_mib: Memory = 0.0
    loss: Share = 0.0

    @property
    def quality(self) -> float:
        """What an answer in time is worth, the whole model's being 1."""
        return 1.0 - self.loss


class ProfileSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All measured candidates of one model.

    Attributes:
        model: its name. about: where and how it was measured, for people.
    """

    model: str
    profiles: Annotated[tuple[Profile, ...], msgspec.Meta(min_length=1)]
    about: str = ""


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the edge part runs.

    Attributes:
        slowdown: how many times longer than the reference machine it takes.
        memory_mib: memory that models may take.
        precisions: number formats that its runtime executes.
    """

    slowdown: Positive = 1.0
    memory_mib: Memory = float("inf")
    precisions: tuple[Precision, ...] = ("fp32", "int8", "int8-dyn")


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The way to the cloud, as it was last seen.

    Attributes:
        bandwidth_mbit_s: of the uplink; 0 is no link.
        rtt_ms: round trip of a few bytes.
        loss: share of packets that are lost: each takes its time once more, and a round trip.
        spread: standard deviation of the logarithm of the bandwidth.
        age_s: time since it was seen; the older, the less is known.
        hazard_per_s: how often it breaks down.
    """

    bandwidth_mbit_s: NotNegative
    rtt_ms: NotNegative = 0.0
    loss: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    spread: NotNegative = 0.05
    age_s: NotNegative = 0.0
    hazard_per_s: NotNegative = 0.0


class Demand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for.

    Attributes:
        deadline_ms: time from the request to its answer.
        max_loss: accuracy budget: candidates that lose more are not considered.
        rate_per_s: requests a second; 0 where they are seldom.
        cloud_parallel: requests that the cloud works on at once.
    """

    deadline_ms: Positive
    max_loss: Share = 1.0
    rate_per_s: NotNegative = 0.0
    cloud_parallel: Annotated[int, msgspec.Meta(ge=1)] = 4


class Backlog(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is ahead of a request.

    Attributes:
        edge_ms: time until the device is free. uplink_ms: time until the uplink is free.
    """

    edge_ms: NotNegative = 0.0
    uplink_ms: NotNegative = 0.0


def encode(profiles: ProfileSet) -> bytes:
    """JSON of a set of profiles."""
    return msgspec.json.format(msgspec.json.encode(profiles)) + b"\n"


def decode(raw: bytes, source: str = "the file of profiles") -> ProfileSet:
    """Read JSON of profiles.

    Raises:
        InvalidSettingError: it is none; the detail names the field, or the candidate that is there
            twice.
    """
    try:
        found = msgspec.json.decode(raw, type=ProfileSet)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidSettingError(
            f"{source}: {error}; docs/planning.md has the layout, and `--example` an example"
        ) from error
    _refuse_doubles(found.profiles, source)
    return found


def _refuse_doubles(profiles: Sequence[Profile], source: str) -> None:
    names = [profile.candidate.name for profile in profiles]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise InvalidSettingError(f"{source}: {doubles[0]} is there more than once; keep one")
