"""Federated rounds: Flower's strategies over our transport, with a loop that survives a restart.

Devices speak `aimass_shared.messages` and `aimass_shared.updates`; flwr exists only in here, in the
modules `wire`, `grid`, `strategy` and `engine`, which are loaded when a round starts.
"""

import os

# Read by flwr when it is imported: no telemetry, no look for updates, nothing installed by itself.
for _name, _value in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
    ("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1"),
):
    os.environ.setdefault(_name, _value)
