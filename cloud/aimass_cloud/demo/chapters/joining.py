"""The coordinator starts, devices enrol, sites record their past."""

from aimass_cloud.demo.scene import Scene
from aimass_cloud.demo.sites import SITES, Site
from aimass_cloud.demo.together import together


async def start_coordinator(scene: Scene) -> None:
    """`aimass serve`, and the factory's own broker."""
    scene.voice.chapter("The coordinator starts")
    scene.admin = await scene.stage.start_coordinator()
    await scene.stage.start_plant_broker()
    broker = scene.stage.broker
    scene.voice.say(f"API, registry, fleet and serving on {scene.stage.url}")
    scene.voice.say(f"{broker.kind} brokers: one of the fleet, one of the factory")
    if broker.note:
        scene.voice.say(broker.note, "yellow")


async def enrol_devices(scene: Scene) -> None:
    """A token for each site, `aimass-edge enroll` and `aimass-edge run` for each device."""
    scene.voice.chapter("Three devices enrol, each with a key that it made itself")
    await together(_join(scene, site) for site in SITES)
    scene.views = await scene.stage.views()
    await scene.stage.until(scene.all_online, "three devices online")
    for site in SITES:
        device = scene.stage.devices[site.name]
        scene.voice.say(f"{device}: {site.profile}, its plant speaks {site.kind}")


async def _join(scene: Scene, site: Site) -> None:
    token = await scene.admin.join_token(site.name)
    scene.stage.devices[site.name] = await scene.stage.enroll(site, token)
    await scene.stage.start_agent(site)


async def record_histories(scene: Scene) -> None:
    """Plants replay normal operation of the past; the agents keep it to themselves."""
    scene.voice.chapter("Each site records its own past, which never leaves it")
    histories = scene.scenario.histories
    total = sum(len(part.rows) for parts in histories.values() for part in parts)
    with scene.voice.counting("rows over MQTT", total) as told:
        sent = await scene.replay.run(histories, told)
    sensors = len(scene.scenario.sensors)
    scene.voice.say(f"{sent} rows of {sensors} sensors at {len(SITES)} sites")
