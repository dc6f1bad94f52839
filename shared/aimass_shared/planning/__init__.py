"""Which plan answers a request: slice, codec and place, ranked by expected goodput, with reasons.

Pure: no clock, no I/O; times are passed in. `rank` compares candidates for a device, a link and a
demand; `tabled` leaves out what is beaten, for the table that travels; `Planner` chooses for each
request on the device and learns from what became of it. docs/planning.md says how.
"""

from aimass_shared.planning.planner import Choice, Planner, Policy
from aimass_shared.planning.profiles import (
    Backlog,
    Candidate,
    Demand,
    Device,
    Link,
    Profile,
    ProfileSet,
)
from aimass_shared.planning.ranking import Ranked, rank
from aimass_shared.planning.table import PlanTable, pareto, tabled
from aimass_shared.planning.uplink import Probing, UplinkEstimate

__all__ = [
    "Backlog",
    "Candidate",
    "Choice",
    "Demand",
    "Device",
    "Link",
    "PlanTable",
    "Planner",
    "Policy",
    "Probing",
    "Profile",
    "ProfileSet",
    "Ranked",
    "UplinkEstimate",
    "pareto",
    "rank",
    "tabled",
]
