"""Which versions a run of the demo was made with."""

import platform
from importlib.metadata import version

from aimass_cloud.demo.report import Versions


def gather(broker: str) -> Versions:
    """Versions of this environment; `broker` is the kind that ran."""
    return Versions(
        python=platform.python_version(),
        torch=version("torch"),
        onnxruntime=version("onnxruntime"),
        flwr=version("flwr"),
        litestar=version("litestar"),
        broker=broker,
    )
