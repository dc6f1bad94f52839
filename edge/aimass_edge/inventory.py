"""What this device is: its board, and the versions that a release may ask for.

It reads; it never measures (that is `capacity`) and never writes.
"""

import platform
from importlib import metadata
from pathlib import Path

import onnxruntime
import psutil

from aimass_edge.config import BoardSettings
from aimass_edge.runtime import backend_of
from aimass_shared.messages import Inventory
from aimass_shared.slices import Board

DEVICE_TREE_MODEL = Path("/proc/device-tree/model")
STATUS = Path("/proc/self/status")
MAX_MODEL_BYTES = 256
KIB_PER_MIB = 1024
MIB = 1 << 20


def take_inventory(board: BoardSettings, *, model_file: Path = DEVICE_TREE_MODEL) -> Inventory:
    """Describe this device to the coordinator.

    Args:
        board: the configured profile.
        model_file: where the kernel tells the board's model; absent on most x86 machines.
    """
    machine = platform.machine()
    model = _device_tree(model_file)
    return Inventory(
        board=board_of(board),
        machine=f"{machine}, {model}" if model else machine,
        python=platform.python_version(),
        agent=metadata.version("aimass"),
        runtime=backend_of(board).runtime,
        providers=tuple(onnxruntime.get_available_providers()),
    )


def board_of(settings: BoardSettings) -> Board:
    """What the configured profile offers to models, as slices are matched against it.

    What TensorRT is asked for, and whether it is there, decides which number formats suit.
    """
    backend = backend_of(settings)
    return Board(
        name=settings.name,
        memory_mib=settings.memory_mib,
        cpu_time_factor=settings.cpu_time_factor,
        window_budget_ms=settings.window_budget_ms,
        precisions=settings.precisions or backend.precisions,
        tensorrt=backend.is_tensorrt,
    )


def rss_mib() -> float:
    """Resident memory of this process, in MiB."""
    return float(psutil.Process().memory_info().rss) / MIB


def peak_mib(status: Path = STATUS) -> float:
    """Most resident memory that this program has had, in MiB.

    Not `getrusage`: what that tells of a child begins with the memory of its parent.
    """
    for line in status.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / KIB_PER_MIB
    return rss_mib()


def _device_tree(path: Path) -> str:
    """The board's model as its device tree tells it (a NUL-terminated string), "" if none."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_MODEL_BYTES)
    except OSError:
        return ""
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable()).strip()
