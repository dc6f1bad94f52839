"""What slices cost on this device: measured as production runs them, told to the coordinator."""

from aimass_edge.bench.running import Benched, Order, bench
from aimass_edge.bench.sending import Reporter, origin_of
from aimass_edge.bench.tables import table
from aimass_edge.bench.targets import Target, of_file, of_installs, of_offers

__all__ = [
    "Benched",
    "Order",
    "Reporter",
    "Target",
    "bench",
    "of_file",
    "of_installs",
    "of_offers",
    "origin_of",
    "table",
]
