"""The device's part in federated rounds: learn from private rows, send back only what was learnt.

`Rounds` answers an invitation; `trainers` hold what is computed; `blobs` moves the arrays. Nothing
here knows MQTT, and nothing needs torch or flwr: a slice ships its own gradient step as ONNX.
"""

from aimass_edge.federated.blobs import BlobLimits, Blobs, HttpBlobs
from aimass_edge.federated.rounds import History, Rounds
from aimass_edge.federated.trainers import (
    ActiveSlice,
    GradientTrainer,
    Job,
    StatisticsTrainer,
    Trained,
    Trainer,
)

__all__ = [
    "ActiveSlice",
    "BlobLimits",
    "Blobs",
    "GradientTrainer",
    "History",
    "HttpBlobs",
    "Job",
    "Rounds",
    "StatisticsTrainer",
    "Trained",
    "Trainer",
]
