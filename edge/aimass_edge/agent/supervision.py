"""The agent under a service manager: says that it is ready, and that it gets on with its work.

The protocol is systemd's, sd_notify(3): datagrams to a socket that the manager names. Without a
manager nothing is sent. A watchdog that only asks whether the event loop turns keeps an agent alive
whose model or disk hangs for ever; so a beat is sent only while nothing that was begun is overdue.
"""

import logging
import os
import socket
from collections.abc import Callable, Mapping

import anyio

log = logging.getLogger(__name__)

SOCKET, INTERVAL_US, WATCHED_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
BEATS = 3
"""In the time that the manager gives for one: two may get lost."""

Overdue = Callable[[float], str]
"""What was begun longer ago than so many seconds and has not ended, in words; "" if nothing."""


class Manager:
    """A service manager that listens.

    Attributes:
        watchdog_s: time without a beat after which it restarts us; 0 where it does not watch.
    """

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        """Take the path of its socket; "@" begins an abstract one."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s
        self._refused = False

    def say(self, **told: str) -> None:
        """Send variables such as READY="1". It must not hurt us if nobody takes them."""
        text = "\n".join(f"{name}={value}" for name, value in told.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(0)
                sender.sendto(text.encode(), self._address)
        except OSError as error:
            if not self._refused:
                log.warning("the service manager does not listen: %s", error)
            self._refused = True
        else:
            self._refused = False

    async def watch(self, overdue: Overdue) -> None:
        """Send beats for ever, as long as nothing is overdue."""
        held_back = ""
        while self.watchdog_s:
            found = overdue(self.watchdog_s)
            if not found:
                self.say(WATCHDOG="1")
            elif found != held_back:
                log.error("%s; unless it goes on, the service manager restarts the agent", found)
                self.say(STATUS=found)
            held_back = found
            await anyio.sleep(self.watchdog_s / BEATS)


def manager_of(environ: Mapping[str, str]) -> Manager | None:
    """The service manager that the environment names, if it names one."""
    address = environ.get(SOCKET, "")
    if not address.startswith(("/", "@")):
        return None
    meant = environ.get(WATCHED_PID, str(os.getpid())) == str(os.getpid())
    interval = environ.get(INTERVAL_US, "0")
    watchdog_s = int(interval) / 1e6 if meant and interval.isdecimal() else 0.0
    return Manager(address, watchdog_s)
