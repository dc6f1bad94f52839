"""Model as a service: the full models of the newest releases behind the inference protocol.

`pool` holds the models and answers requests, `batcher` gathers what waits into one run, `session`
runs it in ONNX Runtime, and `timing` knows how long a run takes.
"""

from aimass_cloud.serving.pool import ModelPool

__all__ = ["ModelPool"]
