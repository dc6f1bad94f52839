"""Models in memory: open a file for a board, run it. Scheduling and meaning are `predict`'s.

Loading blocks (tens of milliseconds to seconds; minutes where TensorRT builds an engine): call
`open_session` in a worker thread.
"""

from pathlib import Path

from aimass_edge.config import BoardSettings
from aimass_edge.runtime.backends import CPU, NATIVE, Backend, backend_of
from aimass_edge.runtime.building import open_engine
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
from aimass_edge.runtime.streaming import with_stream

__all__ = [
    "ANY_SIZE",
    "CPU",
    "VOCABULARY_FILE",
    "Arrays",
    "Backend",
    "CodedSession",
    "Session",
    "backend_of",
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
        DeadlineExceededError: its TensorRT engine was not built in time.
        StorageError: its TensorRT engine cannot be kept.
    """
    session: Session
    if backend_of(board).provider == NATIVE:
        session = open_engine(path, board.engines)
    else:
        session = with_stream(OnnxSession(path, board), path, board)
    return PacedSession(session, board.cpu_time_factor) if board.simulate else session
