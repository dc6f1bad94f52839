"""Where figures come from: processor, memory, load, versions. Names no user and no path."""

import os
import platform
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

MIB = 1 << 20
PACKAGES = (
    *("aimass", "onnxruntime", "numpy", "msgspec", "protobuf", "paho-mqtt", "uvicorn"),
    *("httptools", "torch", "pyarrow"),
)


class Machine(msgspec.Struct, frozen=True):
    """`load`: of the last minute, before the first benchmark and after the last."""

    processor: str
    cores: int
    memory_mib: int
    kernel: str
    load: tuple[float, ...]


def machine(*loads: float) -> Machine:
    """What this machine is, with what it had to do meanwhile."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=psutil.virtual_memory().total // MIB,
        kernel=f"{platform.system()} {platform.release()}",
        load=tuple(round(load, 2) for load in loads),
    )


def load() -> float:
    """Processes that want to run, averaged over a minute; ours are among them."""
    return os.getloadavg()[0]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    table = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in table if line.startswith("model name")]
    return names[0] if names else platform.machine()
