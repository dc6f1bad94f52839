"""The cloud trains, slices, signs and rolls out; the sites learn on."""

from typing import Any

from aimass_cloud.demo.report import RolloutReport, RoundReport, SliceReport, TrainReport
from aimass_cloud.demo.scene import Scene
from aimass_cloud.demo.sites import SITES

ROUNDS = 3
ROUND_S = 30.0
ROLLOUT_S = 60.0


async def train(scene: Scene) -> tuple[TrainReport, str]:
    """The sites' moments give the exact base; the network is trained on it. Returns the model."""
    scene.voice.chapter("The cloud trains: exact base from the sites' moments, then the network")
    run = await _gather_moments(scene)
    start = scene.voice.seconds
    body = {"recipe": scene.plant.recipe, "seed": scene.seed, "base": run}
    with scene.voice.following("training") as watch:
        result = await scene.admin.wait(await scene.admin.start("train", body), watch)
    metrics = result["metrics"]
    report = TrainReport(
        parameters=result["parameters"],
        val_mse=metrics["val_mse"],
        baselines=metrics["baselines"],
        seconds=round(scene.voice.seconds - start, 1),
    )
    others = ", ".join(f"{name} {value:.4f}" for name, value in report.baselines.items())
    scene.voice.say(f"{report.parameters:,} parameters; forecast error {report.val_mse:.4f}")
    scene.voice.say(f"the baselines: {others}")
    return report, str(result["model"])


async def _gather_moments(scene: Scene) -> str:
    """A statistics round; returns its run."""
    with scene.voice.following("statistics round") as watch:
        body = {"kind": "statistics", "recipe": scene.plant.recipe, "deadline_s": ROUND_S}
        moments = await scene.admin.wait(await scene.admin.start("rounds", body), watch)
    sites, rows = moments["clients"], round(moments["rows"])
    scene.voice.say(f"{sites} sites sent matrices that stand for {rows} rows")
    scene.claim("every site took part", holds=sites == len(SITES))
    return str(moments["run"])


async def make_slices(scene: Scene, model: str) -> list[SliceReport]:
    """Export, quantize, check, measure."""
    scene.voice.chapter("The model is cut into slices, checked against torch")
    with scene.voice.following("slicing") as watch:
        job = await scene.admin.start("slice", {"model": model, "classes": ["cpu"]})
        result = await scene.admin.wait(job, watch)
    reports = [_slice_report(one) for one in result["slices"]]
    for one in reports:
        name = f"width {one.width:g} {one.precision}"
        cost = f"{one.bytes:,} bytes, {one.p50_ms:.2f} ms a window"
        scene.voice.say(f"{name}: {cost}, error {one.val_error:.4f}")
    return reports


def _slice_report(one: dict[str, Any]) -> SliceReport:
    return SliceReport(
        width=one["width"],
        precision=one["precision"],
        bytes=one["bytes"],
        p50_ms=one["p50_ms"],
        val_error=one["val_error"],
    )


async def roll_out(scene: Scene, model: str) -> RolloutReport:
    """Sign a release and follow its rollout."""
    scene.voice.chapter("A signed release is rolled out; each board gets the slice that fits")
    release = await scene.admin.release(model)
    started = await scene.admin.rollout(release["id"])
    state = await scene.admin.wait_rollout(started["id"], ROLLOUT_S)
    for one in state["devices"]:
        scene.voice.say(f"{one['device']}: {one['slice'] or '-'} {one['state']} {one['why']}")
    scene.claim(
        "every device verified, self-tested and activated its slice",
        holds=state["state"] == "succeeded",
    )
    return RolloutReport(release=release["id"], devices=len(state["devices"]), state=state["state"])


async def run_rounds(scene: Scene, model: str) -> tuple[list[RoundReport], str]:
    """Flower rounds over MQTT on private windows; returns the new model."""
    scene.voice.chapter(f"{ROUNDS} Flower rounds over MQTT, each device at its own width")
    body = {"kind": "train", "model": model, "rounds": ROUNDS, "seed": scene.seed}
    with scene.voice.following("rounds") as watch:
        result = await scene.admin.wait(await scene.admin.start("rounds", body), watch)
    reports = [_round_report(one) for one in result["rounds"]]
    for one in reports:
        size = f"{one.bytes_down / 1000:.0f} kB down, {one.bytes_up / 1000:.0f} kB up"
        scene.voice.say(
            f"round {one.round}: {one.clients} clients, {one.seconds} s, {size},"
            f" error {one.val_mse:.4f} on rows that no site has"
        )
    everyone = [one.clients for one in reports] == [len(SITES)] * ROUNDS
    scene.claim("every site took part in every round", holds=everyone)
    return reports, str(result["model"])


def _round_report(one: dict[str, Any]) -> RoundReport:
    return RoundReport(
        round=one["round"],
        clients=one["clients"],
        seconds=round(one["seconds"], 2),
        bytes_up=one["bytes_up"],
        bytes_down=one["bytes_down"],
        val_mse=one["val_mse"],
    )
