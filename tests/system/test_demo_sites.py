"""The TOML of the demo's sites as a device reads it; what loading either side leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aimass_cloud.demo.sites import SITES, Site, site_config
from aimass_cloud.recipes import tep
from aimass_edge.config import EdgeSettings
from aimass_edge.profiles import profile_path
from aimass_shared.settings import load

RECIPE = tep.PLANT


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_the_edge_takes_profile_and_config_of_a_site_without_an_unknown_key(
    site: Site, tmp_path: Path
) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(site_config(site, RECIPE, broker_port=1999, broker_version=4, api_port=8123))
    profile = profile_path(site.profile)
    files = [profile, path]
    settings = load(EdgeSettings, prefix="AIMASS_EDGE_", files=files, environ={})
    alone = load(EdgeSettings, prefix="AIMASS_EDGE_", files=[profile], environ={})
    assert settings.source.kind == site.kind
    assert settings.source.url == "mqtt://127.0.0.1:1999"
    assert settings.source.version == 4
    assert tuple(settings.source.sensors) == RECIPE.load().names
    assert settings.source.step_ms == RECIPE.step_ms
    assert settings.api.port == 8123
    assert settings.board.simulate
    assert not alone.board.simulate, "a real board runs as fast as it can"
    assert settings.board.name == alone.board.name == site.profile
    assert settings.board.window_budget_ms == site.window_budget_ms
    assert settings.board.memory_mib == alone.board.memory_mib


@pytest.mark.parametrize("module", ["aimass_edge.runtime.onnx", "aimass_cloud.serving.session"])
def test_loading_the_runtime_opens_no_session_with_its_maker(module: str, tmp_path: Path) -> None:
    """ONNX Runtime 1.32 keeps `.ses` and a device id, and reports, unless it is told not to."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    environ = {n: v for n, v in os.environ.items() if not n.startswith(("ORT_", "XDG_"))}
    environ |= {"HOME": str(home), "TMPDIR": str(temporary)}
    subprocess.run([sys.executable, "-c", f"import {module}"], env=environ, check=True)
    assert [*home.rglob("*"), *temporary.rglob("*")] == []
