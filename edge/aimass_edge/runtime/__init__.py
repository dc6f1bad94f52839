"""Models in memory: open a file for a board, run it. Scheduling and meaning are `predict`'s.

Loading blocks (tens of milliseconds to seconds): call `open_session` in a worker thread.
"""

from pathlib import Path

from aimass_edge.config import BoardSettings
from aimass_edge.runtime.coded import VOCABULARY_FILE, CodedSession, coder_beside
from aimass_edge.runtime.onnx import OnnxSession
from aimass_edge.runtime.paced import PacedSession
from aimass_edge.runtime.session import (
    ANY_SIZE,
    Arrays,
    Session,
    check_feeds,
    describe,
    windows_of,
)

__all__ = [
    "ANY_SIZE",
    "VOCABULARY_FILE",
    "Arrays",
    "CodedSession",
    "Session",
    "check_feeds",
    "coder_beside",
    "describe",
    "open_session",
    "windows_of",
]


def open_session(path: Path, board: BoardSettings) -> Session:
    """Load a model file for a board; a simulated board gets a session of its own pace.

    Raises:
        ModelLoadFailedError: the file is missing, damaged, or not for this runtime.
    """
    session = OnnxSession(path, providers=board.providers, threads=board.threads)
    return PacedSession(session, board.cpu_time_factor) if board.simulate else session
