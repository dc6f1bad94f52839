"""Predictions: the active slice, its worker, and where each window and request is answered."""

from aimass_edge.predict.active import MODEL_FILE
from aimass_edge.predict.counts import Counts, Status
from aimass_edge.predict.dispatch import Cloud
from aimass_edge.predict.drift import Drift
from aimass_edge.predict.limits import Calibrations, SiteLimit
from aimass_edge.predict.predictor import Predictor
from aimass_edge.predict.site import SiteMonitors, SiteStatus, rows_asked
from aimass_edge.predict.telemetry import Explanation

__all__ = [
    "MODEL_FILE",
    "Calibrations",
    "Cloud",
    "Counts",
    "Drift",
    "Explanation",
    "Predictor",
    "SiteLimit",
    "SiteMonitors",
    "SiteStatus",
    "Status",
    "rows_asked",
]
