"""The demo's story: the whole loop, chapter by chapter, with the interfaces that anybody has.

What a claim of the story did not hold up to is a failure in the report.
"""

from aimass_cloud.demo import versions
from aimass_cloud.demo.answers import Answers
from aimass_cloud.demo.chapters import joining, modelling, operating
from aimass_cloud.demo.replay import Replay
from aimass_cloud.demo.report import Report
from aimass_cloud.demo.scene import Scene


async def tell(scene: Scene) -> Report:
    """Play every chapter and gather the figures."""
    await joining.start_coordinator(scene)
    await joining.enrol_devices(scene)
    async with scene.stage.plants(scene.scenario.sensors) as plants:
        scene.replay = Replay(plants, scene.views)
        await joining.record_histories(scene)
        train, model = await modelling.train(scene)
        slices = await modelling.make_slices(scene, model)
        await modelling.roll_out(scene, model)
        async with Answers(scene.stage.broker.address, scene.stage.devices) as answers:
            detection = await operating.watch_fault(scene)
            heard = await operating.hear_answers(scene, answers)
        met = await operating.overload(scene)
        outage = await operating.outage(scene)
    rounds, child = await modelling.run_rounds(scene, model)
    await modelling.make_slices(scene, child)
    rollout = await modelling.roll_out(scene, child)
    devices = await operating.describe_devices(scene)
    return Report(
        ok=not scene.failures,
        seconds=round(scene.voice.seconds, 1),
        seed=scene.seed,
        fault=scene.fault,
        versions=versions.gather(scene.stage.broker.kind),
        train=train,
        slices=slices,
        devices=devices,
        detection=detection,
        plants=heard,
        handoff=met,
        outage=outage,
        rounds=rounds,
        rollout=rollout,
        failures=scene.failures,
    )
