"""A lock file: one process at a time, and its end frees it however it comes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aimass_shared.claims import claimed
from aimass_shared.errors import ConflictError, StorageError

HOLDER = """
import sys
from pathlib import Path
from aimass_shared.claims import claimed
with claimed(Path(sys.argv[1]), otherwise="held"):
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one_process_until_it_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holds\n"
        with (
            pytest.raises(ConflictError, match="stop the other"),
            claimed(lock, otherwise="stop the other"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        with claimed(lock, otherwise="nobody holds it"):
            assert lock.is_file()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "no").write_text("a file")
    with (
        pytest.raises(StorageError, match="cannot write"),
        claimed(tmp_path / "no" / "lock", otherwise=""),
    ):
        pass
