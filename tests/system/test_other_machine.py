"""A device on another machine: the coordinator listens everywhere, TLS on HTTP and on MQTT.

The other machine is played by another address of loopback, which no certificate has by itself.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from aimass_cloud.admin import Admin
from aimass_edge.config import BoardSettings
from aimass_edge.enroll import Identity, enroll
from aimass_edge.inventory import take_inventory
from aimass_shared.errors import AimassError

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

Until = Callable[..., Awaitable[None]]
OTHER = "127.0.0.2"
UNNAMED = "127.0.0.3"


@contextmanager
def _process(log: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("AIMASS_")}
    environ["OMP_NUM_THREADS"] = "1"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", *words], stderr=out, env=environ)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


async def test_a_device_enrols_and_connects_by_the_name_that_it_was_given(
    tmp_path: Path, free_port: Callable[[], int], until: Until
) -> None:
    port, cloud, edge = free_port(), tmp_path / "cloud", tmp_path / "edge"
    ca, key, url = cloud / "tls" / "ca.pem", cloud / "admin.key", f"https://{OTHER}:{port}"
    serve = ("aimass_cloud", "serve", "--host", "0.0.0.0", "--name", OTHER)  # noqa: S104  is tried
    with ExitStack() as stack:
        options = ("--port", str(port), "--data-dir", str(cloud))
        stack.enter_context(_process(tmp_path / "cloud.log", *serve, *options))
        await until(lambda: ca.is_file() and key.is_file(), 30)
        async with Admin.connect(url, key.read_text().strip(), ca_file=str(ca)) as admin:
            await until(admin.ready, 30)
            inventory = take_inventory(BoardSettings())
            token = await admin.join_token("far")
            with pytest.raises(AimassError):
                # A certificate is only good for the names that were said.
                await enroll(
                    cloud_url=f"https://{UNNAMED}:{port}",
                    token=token,
                    data_dir=edge,
                    inventory=inventory,
                )
            mine = await enroll(cloud_url=url, token=token, data_dir=edge, inventory=inventory)
            assert (Identity.load(edge).broker.host, mine.broker.tls) == (OTHER, True)
            run = ("aimass_edge", "run", "--data-dir", str(edge))
            # No heartbeat comes in time: it is the connect that says "online".
            site = "heartbeat_s = 3600.0\n[api]\nenabled = false\n"
            (tmp_path / "site.toml").write_text(site)
            config = ("--config", str(tmp_path / "site.toml"))
            stack.enter_context(_process(tmp_path / "edge.log", *run, *config))

            async def online() -> bool:
                return bool((await admin.device(mine.device))["online"])

            await until(online, 30)
