"""What the chapters of the demo share: the stage, the plan, the voice, and what failed."""

from dataclasses import dataclass, field

from aimass_cloud.admin import Admin
from aimass_cloud.demo.replay import AgentView, Replay
from aimass_cloud.demo.scenario import Scenario
from aimass_cloud.demo.sites import SITES
from aimass_cloud.demo.stage import Stage
from aimass_cloud.demo.voice import Voice
from aimass_cloud.recipes import ShippedPlant


@dataclass(eq=False)
class Scene:
    """One run. `admin`, `views` and `replay` are set by the chapters that start them."""

    stage: Stage
    plant: ShippedPlant
    scenario: Scenario
    fault: int
    seed: int
    voice: Voice = field(default_factory=Voice)
    failures: list[str] = field(default_factory=list)
    admin: Admin = field(init=False)
    views: dict[str, AgentView] = field(init=False)
    replay: Replay = field(init=False)

    def claim(self, claim: str, *, holds: bool) -> None:
        """A claim of the story: said when it holds, kept as a failure when it does not."""
        if holds:
            self.voice.say(f"✓ {claim}", "green")
        else:
            self.voice.say(f"✗ {claim}", "red")
            self.failures.append(claim)

    async def all_online(self) -> bool:
        """Whether the coordinator sees every device."""
        devices = await self.admin.devices()
        return len([one for one in devices if one["online"]]) == len(SITES)

    async def predicted(self) -> int:
        """Windows that the devices have predicted, by their own word."""
        return sum([await view.predicted() for view in self.views.values()])

    async def stored(self) -> int:
        """Predictions that the cloud has stored."""
        devices = self.stage.devices.values()
        return sum([len(await self.admin.predictions(device)) for device in devices])

    async def all_stored(self) -> bool:
        """Whether everything that was predicted is in the cloud."""
        return await self.stored() >= await self.predicted()
