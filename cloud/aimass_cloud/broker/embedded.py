"""The broker of last resort: amqtt, pure Python, in a process of its own.

`python -m aimass_cloud.broker.embedded CONFIG.json` runs it until SIGTERM; a crash or a blocked
loop of it cannot hurt the coordinator. It speaks MQTT 3.1.1, keeps sessions and retained messages
in memory only, and is for trials with some tens of devices. Identity and rights are those of our
mosquitto (see rules.py).
"""

import asyncio
import logging
import signal
import sys
from pathlib import Path

import msgspec

from aimass_cloud.broker.mosquitto import TlsFiles


class EmbeddedOptions(msgspec.Struct, frozen=True):
    """The configuration file. Without `tls` it has no access control: loopback only."""

    host: str
    port: int
    tls: TlsFiles | None = None


def configuration(options: EmbeddedOptions) -> bytes:
    """Text of CONFIG.json."""
    return msgspec.json.encode(options, enc_hook=str)


async def serve(options: EmbeddedOptions) -> None:
    """Run the broker until SIGTERM or SIGINT."""
    # Only this child process needs amqtt, and only where no mosquitto is installed.
    from aimass_cloud.broker.rules import make_broker  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    broker = make_broker(options)
    await broker.start()
    await stop.wait()
    # Not `shutdown`: it waits up to 30 s for clients, who reconnect anyway.


def main(path: Path) -> None:
    """Entry point of the child process."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(serve(_read(path)))


def _read(path: Path) -> EmbeddedOptions:
    raw = path.read_bytes()
    return msgspec.json.decode(raw, type=EmbeddedOptions, dec_hook=lambda kind, text: kind(text))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
