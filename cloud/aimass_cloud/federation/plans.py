"""What a federated run is asked to do, and what came of it: data only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from numpy.typing import NDArray

from aimass_cloud.models.fleet import SitesMoments
from aimass_shared.messages import RoundKind
from aimass_shared.updates import UpdatePrecision

Arrays = dict[str, NDArray[Any]]

Nesting = Callable[[str, tuple[int, ...], float], tuple[slice, ...]]
"""Of a parameter's name, its full shape and a width: the index of the part that the width holds.

`aimass_cloud.models.nesting.Nesting.leading` is one.
"""

OFFLINE = "offline"


class Client(msgspec.Struct, frozen=True):
    """A device's part: the width that it trains, and the name of the slice that it runs."""

    width: float = 1.0
    slice: str = ""


class StatisticsPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One statistics round.

    Attributes:
        run: id under which the round is kept. devices: who is asked.
        sensors: channels, in the order of the moments. step_ms: time between two rows.
        lags: rows of history in a regression row. timeout_s: how long answers are waited for.
    """

    run: str
    devices: tuple[str, ...]
    sensors: tuple[str, ...]
    step_ms: int
    lags: int = 2
    timeout_s: float = 60.0


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A run of training rounds. The same plan under the same `run` goes on where it ended.

    Attributes:
        run: id of the run. model: id of the model that it starts from. rounds: how many.
        clients: who takes part, each with a width of its own.
        sensors, step_ms: of the model's contract.
        epochs, learning_rate: local training. seed: of the first round; each next one adds 1.
        precision: how updates travel to the coordinator.
        timeout_s: how long a round waits for answers. min_clients: fewer good ones end the run.
    """

    run: str
    model: str
    rounds: int
    clients: dict[str, Client]
    sensors: tuple[str, ...]
    step_ms: int
    epochs: int = 1
    learning_rate: float = 1e-3
    seed: int = 0
    precision: UpdatePrecision = "f32"
    timeout_s: float = 60.0
    min_clients: int = 1


class ClientOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one client did in a round; `code` and `why` say what was wrong when not `ok`.

    Attributes:
        examples: windows (training) or rows (statistics) that its update stands for.
        seconds: from the invitation to the answer.
    """

    device: str
    ok: bool
    slice: str = ""
    width: float = 1.0
    examples: int = 0
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    metrics: dict[str, float] = {}
    code: str = ""
    why: str = ""


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A round as it is kept: see `aimass_cloud.store.tables.RoundRow`."""

    run: str
    number: int
    kind: RoundKind
    model: str
    clients: tuple[ClientOutcome, ...]
    seconds: float
    bytes_up: int
    bytes_down: int
    metrics: dict[str, float]
    created: int


@dataclass(frozen=True, eq=False)
class StatisticsResult:
    """The summed moments of all sites that answered, and the round that brought them."""

    moments: SitesMoments
    record: RoundRecord


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """The arrays after the last round, and all rounds of the run."""

    arrays: Arrays
    records: tuple[RoundRecord, ...]
