"""Small files of the device that are the old ones or the new ones, whenever the power goes."""

import os
from pathlib import Path


def replace_durably(path: Path, content: bytes) -> None:
    """Replace a file in one step that survives a power cut.

    Raises:
        OSError: the disk refuses; what was there is as before.
    """
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
