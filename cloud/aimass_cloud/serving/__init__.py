"""Model as a service: the full models of the newest releases behind the inference protocol.

`pool` holds the models and answers requests, `tails` the parts that answer for cut slices,
`batcher` gathers what waits into one run, `session` runs it in ONNX Runtime, and `timing` knows how
long a run takes.
"""

from aimass_cloud.serving.pool import ModelPool, SliceFiles
from aimass_cloud.serving.tails import TailFile

__all__ = ["ModelPool", "SliceFiles", "TailFile"]
