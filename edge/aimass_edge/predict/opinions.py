"""Second opinions of the cloud on answers that a device gave itself: which, and what came of them.

Only of classifiers: for forecasts no gate was better than chance (measured), so these keep to
`local-first`.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from aimass_edge.predict.active import Active
from aimass_edge.predict.cascade import Gate

Outputs = Mapping[str, NDArray[Any]]


class SecondOpinions:
    """The gates of the slices that answer; each learns for itself."""

    def __init__(self, share: float) -> None:
        """Ask about this share of the answers."""
        self._share = share
        self._gates: dict[str, Gate] = {}

    def wanted(self, active: Active, outputs: Outputs) -> bool:
        """Whether the cloud should be asked about an answer; each answer is asked about once."""
        found = _probabilities(active, outputs)
        return found is not None and self._gate(active).wants(found)

    def learn(self, active: Active, outputs: Outputs, told: Outputs) -> None:
        """Take in what the cloud said to what this device had answered."""
        found, other = _probabilities(active, outputs), _probabilities(active, told)
        if found is not None and other is not None and other.shape == found.shape:
            self._gate(active).learn(found, other.argmax(axis=1))

    def _gate(self, active: Active) -> Gate:
        if active.key not in self._gates:
            release = f"{active.manifest.release}/"
            self._gates = {k: g for k, g in self._gates.items() if k.startswith(release)}
            self._gates[active.key] = Gate(self._share)
        return self._gates[active.key]


def _probabilities(active: Active, outputs: Outputs) -> NDArray[Any] | None:
    """Those of a classifier, `[samples, classes]`: its first output of that shape; None without."""
    contract = active.manifest.contract
    if contract.task != "classify":
        return None
    named = (spec.name for spec in contract.outputs if spec.shape[1:] == (len(contract.labels),))
    found = outputs.get(next(named, ""))
    return found if found is not None and found.size else None
