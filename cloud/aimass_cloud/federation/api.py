"""Routes for federated rounds. Needs the dependency `federation`; starting one is a job's work."""

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from aimass_cloud.access import requires
from aimass_cloud.federation.plans import RoundRecord
from aimass_cloud.federation.rounds import Rounds


class RoundsController(Controller):
    """Finished rounds and how each device did in them."""

    path = "/api/v1/rounds"
    guards = (requires("round:read"),)
    tags = ("rounds",)

    @get()
    async def list_rounds(
        self, federation: NamedDependency[Rounds], run: FromQuery[str] = ""
    ) -> list[RoundRecord]:
        """Rounds of a run, or of all, oldest first."""
        return await federation.records(run)
