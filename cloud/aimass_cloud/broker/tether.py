"""Start a command that cannot outlive us: `python tether.py PARENT COMMAND [ARGUMENT ...]`.

Run by path, so that it costs no import of the package. It asks the kernel to send SIGTERM when the
thread that started it dies (prctl PR_SET_PDEATHSIG, Linux only; elsewhere a normal end still stops
the child), then becomes the command. This is done here and not in a `preexec_fn`, because Python
code between fork and exec of a process with threads may deadlock. A command that changes its user
loses the request (Linux, prctl(2)), so the brokers keep ours.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Bind this process to its parent, then become the command."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it died before the request
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is what we want; the command is ours


if __name__ == "__main__":
    main(sys.argv[1:])
