"""Long work of the coordinator as jobs: train, slice, federated rounds.

Each piece of work puts parts together that do not know each other (fleet, rounds, training,
slicing, registry). What needs torch is imported when it is asked for and runs in a thread, so that
a coordinator that only serves starts fast and stays small.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec

from aimass_cloud import recipes
from aimass_cloud.app.exporting import exporting
from aimass_cloud.app.importer import SliceRequest, described
from aimass_cloud.app.roots import DataRoots
from aimass_cloud.federation.plans import (
    Arrays,
    Client,
    RoundRecord,
    StatisticsPlan,
    TrainingPlan,
)
from aimass_cloud.federation.rounds import Rounds
from aimass_cloud.jobs import Progress
from aimass_cloud.models.files import write_whole
from aimass_cloud.models.fleet import SitesMoments, packed_moments, unpacked_moments
from aimass_cloud.models.shrinkage import LAGS
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes import tep
from aimass_cloud.recipes.run import chosen
from aimass_cloud.registry import NewModel, Registry
from aimass_cloud.store.tables import ModelRow
from aimass_shared.errors import MissingExtraError, NoClientsError, NotFoundError, RequestError
from aimass_shared.manifest import decode
from aimass_shared.messages import Reported
from aimass_shared.moments import Moments
from aimass_shared.topics import check_segment

Result = dict[str, object]
MADE = 0.7
"""Share of slicing that is done when the slices are made and nothing is measured."""
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class TrainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/jobs/train`.

    Attributes:
        base: the run of a statistics round, "" for none.
        data: where the coordinator finds the data, below its roots; "" are those that ship.
        size: of the network, "" is the recipe's own.
        config: other settings of the run, as a TOML file has them (docs/training.md).
    """

    recipe: str = recipes.FLAGSHIP
    seed: Seed | None = None
    base: str = ""
    data: str = ""
    size: str = ""
    config: dict[str, Any] = {}

    @property
    def given(self) -> dict[str, object]:
        """What was asked for, by setting."""
        own = {"data": self.data or None, "seed": self.seed, "size": self.size or None}
        return {**self.config, **{name: value for name, value in own.items() if value is not None}}


class ImportRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /api/v1/models/import`: the directory of a run or of a model, below a root."""

    directory: str


class RoundsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`POST /api/v1/jobs/rounds`: statistics of a recipe's sensors, or training of a model.

    `run` goes on with a training run that was interrupted, from its last checkpoint; "" begins one.
    `inbox` is that of a learner (`aimass learn`), below a root: it gets what the sites changed.
    """

    kind: Literal["statistics", "train"]
    recipe: str = recipes.FLAGSHIP
    model: str = ""
    rounds: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    epochs: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-3
    seed: Seed = 0
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 60.0
    run: str = ""
    inbox: str = ""


class ListsDevices(Protocol):
    """Who knows the fleet."""

    async def online(self) -> Mapping[str, Reported]:
        """Devices that are online, with what they run."""
        ...


class Workshop:
    """The coordinator's long work. `data_dir` keeps models, slices and moments."""

    def __init__(
        self,
        data_dir: Path,
        registry: Registry,
        rounds: Rounds,
        *,
        devices: ListsDevices,
        roots: DataRoots,
    ) -> None:
        self._data = data_dir
        self._registry = registry
        self._rounds = rounds
        self._devices = devices
        self._roots = roots
        self._exports = data_dir / "exports"
        """Exported graphs without numbers, which all models of one shape share."""

    async def train(self, request: TrainRequest, progress: Progress) -> Result:
        """Train a recipe's model and register it.

        Raises:
            NotFoundError: there is no such recipe, or no such run.
            MissingExtraError: torch is not installed.
            SettingsError: the settings are wrong, or the data are not below a root.
        """
        recipes.check(request.recipe)
        base = await asyncio.to_thread(self._moments, request.base) if request.base else None
        training = await _needs_torch(_import_training)
        plan, own = recipes.find(request.recipe), recipes.own_run(request.recipe)
        run = chosen(plan.run, own=own, given=request.given)
        run = msgspec.structs.replace(run, data=self._roots.checked(run.data))
        # Graphs of other sizes or data would be exported for nothing.
        ahead = not (request.given.keys() - {"seed"})
        async with exporting(request.recipe, self._exports) if ahead else nullcontext():
            model = await asyncio.to_thread(
                training.train, request.recipe, run, base=base, progress=progress
            )
        row = await self._register(model)
        return {"model": row.id, "parameters": row.parameters, "metrics": row.metrics}

    async def import_model(self, request: ImportRequest) -> ModelRow:
        """Register the model of a run that was trained elsewhere; its files are copied.

        Raises:
            InvalidSettingError: the directory is not below a root.
            NotFoundError: there is no model in it.
            StateCorruptError: its files are damaged.
        """
        folder = self._roots.path(request.directory)
        own = folder / "model"
        model = await asyncio.to_thread(TrainedModel.load, own if own.is_dir() else folder)
        recipes.check(model.info.recipe)
        return await self._register(model)

    async def slice(self, request: SliceRequest, progress: Progress) -> Result:
        """Make the slices of a model, and measure their plans; a release signs them later."""
        row = await self._registry.model(request.model)
        making, completing = await _needs_torch(_import_slicing)
        model = await asyncio.to_thread(_load, row)
        await asyncio.to_thread(self._exports.mkdir, parents=True, exist_ok=True)
        folder = self._data / "slices" / row.id
        made = await asyncio.to_thread(
            making.sliced,
            model,
            folder,
            classes=request.classes,
            budget=request.budget,
            progress=_up_to(progress, MADE),
            reuse=self._exports,
        )
        artifacts = await asyncio.to_thread(
            completing.completed,
            model,
            made.artifacts,
            folder,
            count=request.cuts,
            progress=_from(progress, MADE),
        )
        await self._registry.save_slices(row.id, model.info.contract, artifacts)
        return {
            "model": row.id,
            "slices": [described(artifact) for artifact in artifacts],
            "variants": msgspec.to_builtins(made.variants),
            "left_out": made.left_out,
        }

    async def rounds(self, request: RoundsRequest, progress: Progress) -> Result:
        """Run a statistics round or training rounds over all devices that are online.

        Raises:
            NoClientsError: no device is online, or none runs a slice of the model.
            NotFoundError: there is no such recipe or model.
        """
        if request.kind == "statistics":
            return await self._statistics(request, progress)
        return await self._training(request, progress)

    async def _statistics(self, request: RoundsRequest, progress: Progress) -> Result:
        recipes.check(request.recipe)
        plant = await asyncio.to_thread(tep.load)
        devices = await self._devices.online()
        if not devices:
            raise NoClientsError("no device is online: see `aimass device list`")
        plan = StatisticsPlan(
            run=_new_run("stat"),
            devices=tuple(sorted(devices)),
            sensors=plant.names,
            step_ms=plant.step_ms,
            lags=LAGS,
            timeout_s=request.deadline_s,
        )
        result = await self._rounds.run_statistics(plan, progress)
        await asyncio.to_thread(self._keep_moments, plan.run, result.moments)
        return {"run": plan.run, "rows": result.moments.n, **_round(result.record)}

    async def _training(self, request: RoundsRequest, progress: Progress) -> Result:
        row = await self._registry.trained(request.model)
        model = await asyncio.to_thread(_load, row)
        if not model.info.contract.telemetry:
            raise RequestError(
                f"models of {model.info.recipe} learn nothing on devices: they see no telemetry"
            )
        training = await _needs_torch(_import_training)
        inbox = self._roots.path(request.inbox) if request.inbox else None
        plan = TrainingPlan(
            run=request.run or _new_run("fl"),
            model=row.id,
            rounds=request.rounds,
            clients=await self._clients(row.id),
            sensors=tuple(sensor.name for sensor in model.info.contract.sensors),
            step_ms=model.info.contract.step_ms,
            epochs=request.epochs,
            learning_rate=request.learning_rate,
            seed=request.seed,
            timeout_s=request.deadline_s,
        )

        def evaluate(arrays: Arrays) -> dict[str, float]:
            figures: dict[str, float] = training.evaluate(model, arrays)
            return figures

        result = await self._rounds.run_training(
            plan,
            dict(model.weights),
            nesting=model.nesting.leading,
            evaluate=evaluate,
            progress=progress,
        )
        if inbox is not None:
            await asyncio.to_thread(_drop, inbox / plan.run, model, result.arrays)
        child = await asyncio.to_thread(training.with_weights, model, result.arrays)
        new = await self._register(child, parent=row.id)
        rounds = [_round(record) for record in result.records]
        return {"run": plan.run, "model": new.id, "metrics": new.metrics, "rounds": rounds}

    async def _clients(self, model: str) -> dict[str, Client]:
        """Devices online that run a slice of the model, each with its width."""
        clients: dict[str, Client] = {}
        releases = {r.id: r for r in await self._registry.releases() if r.model == model}
        for device, reported in (await self._devices.online()).items():
            ref = reported.release
            if ref is not None and ref.release in releases:
                entry = decode(releases[ref.release].manifest).entry(ref.slice)
                clients[device] = Client(width=entry.spec.width, slice=ref.slice)
        if not clients:
            raise NoClientsError(f"no online device runs a slice of {model}: roll it out first")
        return clients

    async def _register(self, model: TrainedModel, parent: str = "") -> ModelRow:
        folder = self._data / "models" / f"{model.id}-{secrets.token_hex(4)}"
        await asyncio.to_thread(model.save, folder)
        return await self._registry.add_model(
            NewModel(
                name=model.info.contract.model,
                recipe=model.info.recipe,
                parameters=model.parameters,
                metrics=model.metrics,
                directory=str(folder),
                parent=parent,
            )
        )

    def _keep_moments(self, run: str, moments: SitesMoments) -> None:
        write_whole(self._data / "moments" / f"{run}.npz", packed_moments(moments))

    def _moments(self, run: str) -> Moments:
        path = self._data / "moments" / f"{check_segment(run, 'run')}.npz"
        if not path.is_file():
            raise NotFoundError(f"no statistics run {run!r}: `aimass round statistics` makes one")
        return unpacked_moments(path.read_bytes())


def _new_run(prefix: str) -> str:
    return f"{prefix}-{int(time.time()):x}-{secrets.token_hex(3)}"


def _load(row: ModelRow) -> TrainedModel:
    return TrainedModel.load(Path(row.directory))


def _drop(path: Path, model: TrainedModel, arrays: Arrays) -> None:
    """Hand what the sites changed to a learner, as a file in its inbox."""
    from aimass_cloud.training.incremental import Delta, Inbox  # noqa: PLC0415  torch is slow

    place = Inbox(path.parent)
    place.open()
    changed = {name: arrays[name] - array for name, array in model.weights.items()}
    place.put(path.name, Delta(model.id, changed))


def _up_to(progress: Progress, end: float) -> Progress:
    """Progress of the first part of some work."""
    return lambda done, told: progress(done * end, told)


def _from(progress: Progress, start: float) -> Progress:
    """Progress of the rest of it."""
    return lambda done, told: progress(start + done * (1 - start), told)


def _round(record: RoundRecord) -> Result:
    return {
        "round": record.number,
        "clients": sum(client.ok for client in record.clients),
        "seconds": record.seconds,
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        **record.metrics,
        "outcomes": msgspec.to_builtins(record.clients),
    }


def _import_training() -> Any:  # noqa: ANN401  a module; its functions are typed where they stand
    from aimass_cloud import training  # noqa: PLC0415  torch is of [train], and slow to import

    return training


def _import_slicing() -> Any:  # noqa: ANN401  modules; functions are typed where they stand
    from aimass_cloud.slicing import (  # noqa: PLC0415  torch is of [train], slow to import
        completing,
        making,
    )

    return making, completing


async def _needs_torch(load: Callable[[], Any]) -> Any:  # noqa: ANN401  a module
    """Import what needs torch, in a thread: the API answers meanwhile.

    Raises:
        MissingExtraError: a package of the extra is not installed; the detail says what to type.
    """
    try:
        return await asyncio.to_thread(load)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'this needs {error.name}: pip install "aimass[cloud,train]"'
        ) from error
