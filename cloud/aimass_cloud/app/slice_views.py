"""The slices of a model as people compare them: what each costs here and on every board.

It puts together what the registry knows (files, errors, releases, parents) and what devices have
measured of themselves.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from aimass_cloud.access import requires
from aimass_cloud.fleet import Fleet
from aimass_cloud.fleet.measurements import DeviceMeasured
from aimass_cloud.registry import Registry
from aimass_shared.manifest import SliceArtifact, decode
from aimass_shared.slices import SliceCost, SliceSpec

MOST_PARENTS = 32


class OnBoard(msgspec.Struct, frozen=True):
    """A slice on boards of one profile, one window at a time.

    Attributes:
        devices: how many have measured it.
        p50_ms: median of theirs. p99_ms, rss_mib: the largest of theirs.
        energy_mj: median of those that can tell; None where none can.
    """

    board: str
    provider: str
    devices: int
    p50_ms: float
    p99_ms: float
    rss_mib: float
    energy_mj: float | None


class SliceOfModel(msgspec.Struct, frozen=True, kw_only=True):
    """A slice, with what it costs.

    Attributes:
        codec: of a cut slice, how what crosses is packed.
        error_change: of its error against the full model in float, as a share; None without that.
        releases: ids of the releases that have it, newest first.
        boards: what devices measured, in any of these releases.
    """

    slice: str
    width: float
    precision: str
    cut: str
    codec: str
    cost: SliceCost
    error_change: float | None
    tolerance: float
    releases: tuple[str, ...]
    boards: tuple[OnBoard, ...]


class SlicesOfModel(msgspec.Struct, frozen=True, kw_only=True):
    """The slices of a model; `lineage` are the models that it came from, parent first."""

    model: str
    name: str
    recipe: str
    lineage: tuple[str, ...]
    slices: tuple[SliceOfModel, ...]


@get(
    "/api/v1/models/{model:str}/slices",
    guards=[requires("model:read"), requires("fleet:read")],
    tags=["models"],
)
async def slices_of_model(
    registry: NamedDependency[Registry], fleet: NamedDependency[Fleet], model: FromPath[str]
) -> SlicesOfModel:
    """The newest slices of a model, with what they cost here and on every board."""
    row = await registry.model(model)
    sliced = await registry.sliced(model)
    releases = {
        one.id: decode(one.manifest) for one in await registry.releases() if one.model == model
    }
    holders = {
        artifact.spec: tuple(
            id_ for id_, manifest in releases.items() if artifact.spec in manifest.offers()
        )
        for artifact in sliced.slices
    }
    measured = await fleet.measurements.find(model=row.name)
    own = [one for one in measured if one.measured.release in releases]
    return SlicesOfModel(
        model=row.id,
        name=row.name,
        recipe=row.recipe,
        lineage=await _lineage(registry, row.parent),
        slices=_slices(sliced.slices, holders, own),
    )


async def _lineage(registry: Registry, parent: str) -> tuple[str, ...]:
    found: list[str] = []
    while parent and parent not in found and len(found) < MOST_PARENTS:
        found.append(parent)
        parent = (await registry.model(parent)).parent
    return tuple(found)


def _slices(
    artifacts: Sequence[SliceArtifact],
    holders: Mapping[SliceSpec, tuple[str, ...]],
    measured: Sequence[DeviceMeasured],
) -> tuple[SliceOfModel, ...]:
    full = next((a.cost.val_error for a in artifacts if a.spec == SliceSpec(1.0, "fp32")), None)
    return tuple(
        SliceOfModel(
            slice=one.spec.name,
            width=one.spec.width,
            precision=one.spec.precision,
            cut=one.spec.cut,
            codec=one.codec,
            cost=one.cost,
            error_change=one.cost.val_error / full - 1.0 if full else None,
            tolerance=one.tolerance,
            releases=holders[one.spec],
            boards=boards_of(m for m in measured if m.measured.slice == one.spec.name),
        )
        for one in artifacts
    )


def boards_of(measured: Iterable[DeviceMeasured]) -> tuple[OnBoard, ...]:
    """What devices measured of one slice, by board and provider; batches of one window only.

    Of a device that measured it in several releases the newest counts.
    """
    newest: dict[tuple[str, str, str], DeviceMeasured] = {}
    for one in sorted(measured, key=lambda one: one.measured.at):
        if one.measured.batch == 1:
            newest[one.measured.board, one.measured.provider, one.device] = one
    groups: dict[tuple[str, str], list[DeviceMeasured]] = {}
    for (board, provider, _), one in newest.items():
        groups.setdefault((board, provider), []).append(one)
    return tuple(_on_board(*key, found) for key, found in sorted(groups.items()))


def _on_board(board: str, provider: str, found: Sequence[DeviceMeasured]) -> OnBoard:
    told = [one.measured for one in found]
    energies = [one.energy_mj for one in told if one.energy_mj is not None]
    return OnBoard(
        board=board,
        provider=provider,
        devices=len(told),
        p50_ms=statistics.median(one.p50_ms for one in told),
        p99_ms=max(one.p99_ms for one in told),
        rss_mib=max(one.rss_mib for one in told),
        energy_mj=statistics.median(energies) if energies else None,
    )
