"""The demo's story: the whole loop, chapter by chapter, with the commands that anybody has.

Each chapter does one thing through the public interfaces, says what happened, and leaves its
figures for the report. What a claim of the story did not hold up to is a failure in the report.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from aimass_cloud.admin import Admin
from aimass_cloud.demo import burst, versions
from aimass_cloud.demo.burst import Burst
from aimass_cloud.demo.detection import Detection, Rates, Seen, judge, rates
from aimass_cloud.demo.replay import AgentView, Replay
from aimass_cloud.demo.report import (
    DeviceReport,
    HandoffReport,
    OutageReport,
    Report,
    RolloutReport,
    RoundReport,
    SliceReport,
    TrainReport,
)
from aimass_cloud.demo.scenario import Scenario
from aimass_cloud.demo.sites import SITES
from aimass_cloud.demo.stage import Stage
from aimass_cloud.demo.voice import Voice
from aimass_cloud.models.pca import Pca
from aimass_cloud.recipes import Recipe
from aimass_shared.errors import DeadlineExceededError

Json = dict[str, Any]

ROUNDS = 3
BURST_REQUESTS = 240
BURST_TOGETHER = 24
BURST_WINDOWS = 8
DEADLINE_MS = 400
DRAIN_S = 30.0
WEAKEST = "east"
"""The site with the weakest board: its endpoint gets the burst."""


class Story:
    """One run; `tell` is the whole of it."""

    def __init__(
        self, stage: Stage, recipe: Recipe, scenario: Scenario, *, fault: int, seed: int
    ) -> None:
        self._stage = stage
        self._recipe = recipe
        self._scenario = scenario
        self._fault = fault
        self._seed = seed
        self.voice = Voice()
        self._failures: list[str] = []
        self._admin: Admin
        self._views: dict[str, AgentView]
        self._replay: Replay

    async def tell(self) -> Report:
        """Play every chapter and gather the figures."""
        await self._coordinator()
        await self._devices()
        async with self._stage.plants(self._scenario.sensors) as plants:
            self._replay = Replay(plants, self._views)
            await self._histories()
            train, model = await self._train()
            slices = await self._slices(model)
            await self._roll_out(model)
            detection = await self._watch()
            met = await self._overload()
            outage = await self._outage()
        rounds, child = await self._rounds(model)
        await self._slices(child)
        rollout = await self._roll_out(child)
        devices = await self._device_reports()
        return Report(
            ok=not self._failures,
            seconds=round(self.voice.seconds, 1),
            seed=self._seed,
            fault=self._fault,
            versions=versions.gather(self._stage.broker.kind),
            train=train,
            slices=slices,
            devices=devices,
            detection=detection,
            handoff=met,
            outage=outage,
            rounds=rounds,
            rollout=rollout,
            failures=self._failures,
        )

    def _claim(self, *, holds: bool, claim: str) -> None:
        """A claim of the story: said when it holds, kept as a failure when it does not."""
        if holds:
            self.voice.say(f"[green]✓[/] {claim}")
        else:
            self.voice.say(f"[red]✗[/] {claim}")
            self._failures.append(claim)

    async def _coordinator(self) -> None:
        self.voice.chapter("The coordinator starts")
        self._admin = await self._stage.start_coordinator()
        await self._stage.start_plant_broker()
        broker = self._stage.broker
        self.voice.say(f"API, registry, fleet and serving on {self._stage.url}")
        self.voice.say(f"{broker.kind} brokers: one of the fleet, one of the factory")
        if broker.note:
            self.voice.say(f"[yellow]{broker.note}[/]")

    async def _devices(self) -> None:
        self.voice.chapter("Three devices enrol, each with a key that it made itself")
        await asyncio.gather(*(self._join(index) for index in range(len(SITES))))
        self._views = await self._stage.views()
        await self._stage.until(self._all_online, "three devices online")
        for site in SITES:
            device = self._stage.devices[site.name]
            self.voice.say(f"{device}: {site.profile}, its plant speaks {site.kind}")

    async def _join(self, index: int) -> None:
        site = SITES[index]
        token = await self._admin.join_token(site.name)
        self._stage.devices[site.name] = await self._stage.enroll(site, token)
        await self._stage.start_agent(site)

    async def _all_online(self) -> bool:
        devices = await self._admin.devices()
        return len([one for one in devices if one["online"]]) == len(SITES)

    async def _histories(self) -> None:
        self.voice.chapter("Each site records its own past, which never leaves it")
        histories = self._scenario.histories
        total = sum(len(part.rows) for parts in histories.values() for part in parts)
        with self.voice.counting("rows over MQTT", total) as told:
            sent = await self._replay.run(histories, told)
        self.voice.say(f"{sent} rows of {len(self._scenario.sensors)} sensors at 3 sites")

    async def _train(self) -> tuple[TrainReport, str]:
        self.voice.chapter("The cloud trains: exact base from the sites' moments, then the network")
        with self.voice.following("statistics round") as watch:
            job = await self._admin.start("rounds", {"kind": "statistics", "deadline_s": 30.0})
            moments = await self._admin.wait(job, watch)
        self.voice.say(
            f"{moments['clients']} sites sent matrices that stand for {moments['rows']} rows"
        )
        self._claim(holds=moments["clients"] == len(SITES), claim="every site took part")
        start = self.voice.seconds
        body = {"recipe": self._recipe.name, "seed": self._seed, "base": moments["run"]}
        with self.voice.following("training") as watch:
            result = await self._admin.wait(await self._admin.start("train", body), watch)
        metrics = result["metrics"]
        report = TrainReport(
            parameters=result["parameters"],
            val_mse=metrics["val_mse"],
            baselines=metrics["baselines"],
            seconds=round(self.voice.seconds - start, 1),
        )
        others = ", ".join(f"{name} {value:.4f}" for name, value in report.baselines.items())
        self.voice.say(f"{report.parameters:,} parameters; forecast error {report.val_mse:.4f}")
        self.voice.say(f"the baselines: {others}")
        return report, str(result["model"])

    async def _slices(self, model: str) -> list[SliceReport]:
        self.voice.chapter("The model is cut into slices, checked against torch")
        with self.voice.following("slicing") as watch:
            job = await self._admin.start("slice", {"model": model})
            result = await self._admin.wait(job, watch)
        reports = [
            SliceReport(
                width=one["width"],
                precision=one["precision"],
                bytes=one["bytes"],
                p50_ms=one["p50_ms"],
                val_mse=one["val_mse"],
            )
            for one in result["slices"]
        ]
        for one in reports:
            name = f"width {one.width:g} {one.precision}"
            cost = f"{one.bytes:,} bytes, {one.p50_ms:.2f} ms a window"
            self.voice.say(f"{name}: {cost}, error {one.val_mse:.4f}")
        return reports

    async def _roll_out(self, model: str) -> RolloutReport:
        self.voice.chapter("A signed release is rolled out; each board gets the slice that fits")
        release = await self._admin.release(model)
        started = await self._admin.rollout(release["id"])
        state = await self._admin.wait_rollout(started["id"], DRAIN_S)
        for one in state["devices"]:
            self.voice.say(f"{one['device']}: {one['slice'] or '-'} {one['state']} {one['why']}")
        self._claim(
            holds=state["state"] == "succeeded",
            claim="every device verified, self-tested and activated its slice",
        )
        return RolloutReport(
            release=release["id"], devices=len(state["devices"]), state=state["state"]
        )

    async def _watch(self) -> Detection:
        self.voice.chapter(f"The plants run on; fault {self._fault} begins")
        scenario = self._scenario
        stretches = [scenario.normal, scenario.fault]
        total = len(SITES) * sum(len(part.rows) for part in stretches)
        with self.voice.counting("rows over MQTT", total) as told:
            await self._replay.run({site.name: stretches for site in SITES}, told)
        await self._stage.until(self._all_stored, "all predictions in the cloud", DRAIN_S)
        runs = [self._seen(await self._admin.predictions(d)) for d in self._stage.devices.values()]
        found = judge(self._fault, runs, onset=scenario.onset, baselines={"pca": self._pca()})
        self.voice.say(
            f"alarm {found.delay_samples} samples after the fault began;"
            f" most responsible: {', '.join(found.top_sensors)}"
        )
        self.voice.say(
            f"{found.windows} windows: {_rates(found)}; PCA: {_rates(found.baselines['pca'])}"
        )
        self._claim(holds=found.delay_samples >= 0, claim="the fault was found")
        return found

    def _seen(self, predictions: Sequence[Json]) -> list[Seen]:
        """Predictions placed in the replayed runs; those of other times are left out."""
        normal, fault = self._scenario.normal, self._scenario.fault
        seen = []
        for one in predictions:
            row = fault.row(one["window_end"])
            before = normal.row(one["window_end"])
            if row is None and before is not None:
                row = before - len(normal.rows)
            if row is not None:
                over = one["score"] > one["threshold"]
                seen.append(Seen(row, over, one["alarm"], one["top_sensors"]))
        return seen

    def _pca(self) -> Rates:
        """PCA on the very same rows, fitted and calibrated as the monitor is."""
        from aimass_cloud.models.monitor import threshold  # noqa: PLC0415  torch is slow to import

        data, scenario, skip = self._recipe.load(), self._scenario, self._recipe.window - 1
        pca = Pca.fit(data.train)
        level = threshold(pca.score(data.calibration))
        before = pca.score(scenario.normal.rows)[skip:] > level
        run = pca.score(scenario.fault.rows)[skip:] > level
        seen = [Seen(-1, bool(over)) for over in before]
        seen += [Seen(row + skip, bool(over)) for row, over in enumerate(run)]
        return rates(seen, scenario.onset)

    async def _overload(self) -> HandoffReport:
        self.voice.chapter("A burst of requests is too much for one device; it hands off")
        met = await self._burst()
        answers = f"{met.local} here, {met.cloud} in the cloud, {met.refused} refused {met.codes}"
        self.voice.say(f"{met.requests} requests with {met.deadline_ms} ms each: {answers}")
        self._claim(holds=met.lost == 0, claim="none was lost")
        self._claim(holds=met.cloud > 0, claim="what was too much here went to the cloud")
        self._claim(holds=met.late == 0, claim="none was answered late")
        return met

    async def _burst(self) -> HandoffReport:
        rows = self._scenario.normal.rows
        window = self._recipe.window
        starts = np.linspace(0, len(rows) - window, BURST_WINDOWS).astype(int)
        one = Burst(
            url=self._views[WEAKEST].url,
            model=self._recipe.model,
            values=np.stack([rows[start : start + window] for start in starts]),
            requests=BURST_REQUESTS,
            together=BURST_TOGETHER,
            deadline_ms=DEADLINE_MS,
        )
        return burst.judge(one, await burst.fire(one))

    async def _outage(self) -> OutageReport:
        self.voice.chapter("The cloud and the fleet's broker are stopped; the sites go on")
        before = await self._predicted()
        start = self.voice.seconds
        await self._stage.coordinator.stop()
        stretches = {site.name: [self._scenario.outage] for site in SITES}
        with self.voice.counting("rows", len(SITES) * len(self._scenario.outage.rows)) as told:
            await self._replay.run(stretches, told)
        met = await self._burst()
        made = await self._predicted() - before
        await self._stage.coordinator.start()
        await self._stage.until_ready(self._admin)
        seconds = self.voice.seconds - start
        await self._stage.until(self._all_online, "three devices online again", DRAIN_S)
        lost = await self._unstored(DRAIN_S)
        self.voice.say(f"{made} windows predicted meanwhile; {met.local} requests answered here,")
        self.voice.say(f"{met.refused} refused within the deadline {met.codes}, {met.lost} lost")
        self._claim(holds=made > 0, claim="the devices went on without the cloud")
        self._claim(holds=lost == 0, claim="every prediction arrived once the cloud was back")
        self._claim(holds=met.lost == 0 and met.cloud == 0, claim="every request got an answer")
        return OutageReport(
            seconds=round(seconds, 1), local_predictions=made, lost=lost, requests=met
        )

    async def _predicted(self) -> int:
        return sum([await view.predicted() for view in self._views.values()])

    async def _stored(self) -> int:
        return sum([len(await self._admin.predictions(d)) for d in self._stage.devices.values()])

    async def _all_stored(self) -> bool:
        return await self._stored() >= await self._predicted()

    async def _unstored(self, seconds: float) -> int:
        """Predictions that the cloud still has not got after so long."""
        with suppress(DeadlineExceededError):
            await self._stage.until(self._all_stored, "all predictions in the cloud", seconds)
        return max(0, await self._predicted() - await self._stored())

    async def _rounds(self, model: str) -> tuple[list[RoundReport], str]:
        self.voice.chapter(f"{ROUNDS} Flower rounds over MQTT, each device at its own width")
        body = {"kind": "train", "model": model, "rounds": ROUNDS, "seed": self._seed}
        with self.voice.following("rounds") as watch:
            result = await self._admin.wait(await self._admin.start("rounds", body), watch)
        reports = [
            RoundReport(
                round=one["round"],
                clients=one["clients"],
                seconds=round(one["seconds"], 2),
                bytes_up=one["bytes_up"],
                bytes_down=one["bytes_down"],
                val_mse=one["val_mse"],
            )
            for one in result["rounds"]
        ]
        for one in reports:
            size = f"{one.bytes_down / 1000:.0f} kB down, {one.bytes_up / 1000:.0f} kB up"
            error = f"error {one.val_mse:.4f} on rows that no site has"
            self.voice.say(
                f"round {one.round}: {one.clients} clients, {one.seconds} s, {size}, {error}"
            )
        everyone = all(one.clients == len(SITES) for one in reports)
        self._claim(holds=everyone and len(reports) == ROUNDS, claim="every site took part")
        return reports, str(result["model"])

    async def _device_reports(self) -> list[DeviceReport]:
        manifest = {}
        reports = []
        for site in SITES:
            device = await self._admin.device(self._stage.devices[site.name])
            stats = device["stats"]
            name = device["reported"]["release"]["slice"]
            width, precision = name.removeprefix("w").split("-", 1)
            manifest[name] = precision
            reports.append(
                DeviceReport(
                    id=device["id"],
                    site=site.name,
                    profile=site.profile,
                    width=float(width),
                    precision=precision,
                    predictions=stats["predictions"],
                    handed_off=stats["handed_off"],
                    refused=stats["refused"],
                    p50_ms=stats["p50_ms"],
                    p99_ms=stats["p99_ms"],
                    rss_mib=stats["rss_mib"],
                )
            )
        return reports


def _rates(found: Detection | Rates) -> str:
    return (
        f"{found.detection_rate:.1%} of the faulty found, {found.false_alarm_rate:.1%} false alarms"
    )
