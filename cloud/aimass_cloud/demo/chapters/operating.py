"""The plants run on: a fault, a burst of requests, an outage of the cloud."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from aimass_cloud.demo import burst
from aimass_cloud.demo.answers import Answers
from aimass_cloud.demo.burst import Burst
from aimass_cloud.demo.detection import Detection, Rates, Seen, judge, rates
from aimass_cloud.demo.report import DeviceReport, HandoffReport, OutageReport, PlantReport
from aimass_cloud.demo.scene import Scene
from aimass_cloud.demo.sites import SITES, Site
from aimass_cloud.models.pca import Pca
from aimass_shared.errors import DeadlineExceededError

BURST_REQUESTS = 240
BURST_TOGETHER = 24
BURST_WINDOWS = 16
DEADLINE_MS = 1000
DRAIN_S = 30.0
WEAKEST = "east"
"""The site with the weakest board: its endpoint gets the burst."""


async def watch_fault(scene: Scene) -> Detection:
    """Normal operation, then the fault; judged by what the cloud has stored of it."""
    scene.voice.chapter(f"The plants run on; fault {scene.fault} begins")
    scenario = scene.scenario
    stretches = [scenario.normal, scenario.fault]
    total = len(SITES) * sum(len(part.rows) for part in stretches)
    with scene.voice.counting("rows over MQTT", total) as told:
        await scene.replay.run({site.name: stretches for site in SITES}, told)
    await scene.stage.until(scene.all_stored, "all predictions in the cloud", DRAIN_S)
    devices = scene.stage.devices.values()
    runs = [_seen(scene, await scene.admin.predictions(device)) for device in devices]
    baselines = {"pca": _pca(scene)}
    found = judge(scene.fault, runs, onset=scenario.onset, baselines=baselines)
    scene.voice.say(
        f"alarm {found.delay_samples} samples after the fault began;"
        f" most responsible: {', '.join(found.top_sensors)}"
    )
    scene.voice.say(f"{found.windows} windows: {_words(found)}; PCA: {_words(baselines['pca'])}")
    scene.claim("the fault was found", holds=found.delay_samples >= 0)
    return found


async def hear_answers(scene: Scene, answers: Answers) -> list[PlantReport]:
    """What came back to the plants while the fault was watched."""

    def everyone() -> bool:
        return all(plant.predictions and plant.alarms for plant in answers.reports())

    with suppress(DeadlineExceededError):
        await scene.stage.until(everyone, "predictions back in every plant", DRAIN_S)
    heard = answers.reports()
    for plant in heard:
        scene.voice.say(
            f"{plant.site}: {plant.predictions} predictions came back over {plant.kind},"
            f" {plant.alarms} with the alarm up"
        )
    scene.claim("every plant heard its agent", holds=everyone())
    return heard


def _words(found: Detection | Rates) -> str:
    return (
        f"{found.detection_rate:.1%} of the faulty found, {found.false_alarm_rate:.1%} false alarms"
    )


def _seen(scene: Scene, predictions: Sequence[dict[str, Any]]) -> list[Seen]:
    """Predictions placed in the replayed runs; those of other times are left out."""
    normal, fault = scene.scenario.normal, scene.scenario.fault
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


def _pca(scene: Scene) -> Rates:
    """PCA on the very same rows, fitted and calibrated as the monitor is."""
    from aimass_cloud.models.monitor import threshold  # noqa: PLC0415  torch is slow to import

    data, scenario, skip = scene.plant.load(), scene.scenario, scene.plant.window - 1
    pca = Pca.fit(data.train)
    level = threshold(pca.score(data.calibration))
    before = pca.score(scenario.normal.rows)[skip:] > level
    run = pca.score(scenario.fault.rows)[skip:] > level
    seen = [Seen(-1, bool(over)) for over in before]
    seen += [Seen(row + skip, bool(over)) for row, over in enumerate(run)]
    return rates(seen, scenario.onset)


async def overload(scene: Scene) -> HandoffReport:
    """A burst that is too much for the weakest board, with the cloud behind it."""
    scene.voice.chapter("A burst of requests is too much for one device; it hands off")
    met = await _burst(scene)
    answers = f"{met.local} here, {met.cloud} in the cloud, {met.refused} refused {met.codes}"
    scene.voice.say(f"{met.requests} requests with {met.deadline_ms} ms each: {answers}")
    scene.claim("none was lost", holds=met.lost == 0)
    scene.claim("what was too much here went to the cloud", holds=met.cloud > 0)
    scene.claim("none was answered late", holds=met.late == 0)
    return met


async def _burst(scene: Scene) -> HandoffReport:
    rows, window = scene.scenario.normal.rows, scene.plant.window
    starts = np.linspace(0, len(rows) - window, BURST_WINDOWS).astype(int)
    one = Burst(
        url=scene.views[WEAKEST].url,
        model=scene.plant.model,
        values=np.stack([rows[start : start + window] for start in starts]),
        requests=BURST_REQUESTS,
        together=BURST_TOGETHER,
        deadline_ms=DEADLINE_MS,
    )
    return burst.judge(one, await burst.fire(one))


async def outage(scene: Scene) -> OutageReport:
    """Stop the coordinator and its broker; telemetry and requests go on; start it again."""
    scene.voice.chapter("The cloud and the fleet's broker are stopped; the sites go on")
    before = await scene.predicted()
    start = scene.voice.seconds
    await scene.stage.coordinator.stop()
    stretch = scene.scenario.outage
    with scene.voice.counting("rows over MQTT", len(SITES) * len(stretch.rows)) as told:
        await scene.replay.run({site.name: [stretch] for site in SITES}, told)
    met = await _burst(scene)
    made = await scene.predicted() - before
    await scene.stage.coordinator.start()
    await scene.stage.until_ready(scene.admin)
    seconds = scene.voice.seconds - start
    await scene.stage.until(scene.all_online, "three devices online again", DRAIN_S)
    lost = await _unstored(scene)
    scene.voice.say(f"{made} windows were predicted in {seconds:.1f} s without the cloud")
    scene.voice.say(
        f"{met.requests} requests: {met.local} answered here, {met.refused} refused {met.codes}"
    )
    scene.claim("the devices went on without the cloud", holds=made > 0)
    scene.claim("every prediction arrived once the cloud was back", holds=lost == 0)
    scene.claim(
        "every request was answered or refused in time",
        holds=met.lost == 0 and met.late == 0 and met.local > 0,
    )
    return OutageReport(seconds=round(seconds, 1), local_predictions=made, lost=lost, requests=met)


async def _unstored(scene: Scene) -> int:
    """Predictions that the cloud still has not got after `DRAIN_S` seconds."""
    with suppress(DeadlineExceededError):
        await scene.stage.until(scene.all_stored, "all predictions in the cloud", DRAIN_S)
    return max(0, await scene.predicted() - await scene.stored())


async def describe_devices(scene: Scene) -> list[DeviceReport]:
    """What the coordinator knows of each device at the end."""
    return [await _describe(scene, site) for site in SITES]


async def _describe(scene: Scene, site: Site) -> DeviceReport:
    device = await scene.admin.device(scene.stage.devices[site.name])
    stats = device["stats"]
    width, precision = device["reported"]["release"]["slice"].removeprefix("w").split("-", 1)
    return DeviceReport(
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
