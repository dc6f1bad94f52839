"""The demo's sites and the TOML that an integrator would write for each."""

import tomllib
from typing import Any

import pytest

from aimass_cloud.demo.sites import SITES, Site, site_config
from aimass_cloud.recipes import tep

RECIPE = tep.PLANT


def _config(site: Site) -> dict[str, Any]:
    raw = site_config(site, RECIPE, broker_port=1999, broker_version=4, api_port=8123)
    return tomllib.loads(raw.decode())


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_the_config_is_toml_and_says_where_telemetry_comes_from(site: Site) -> None:
    config = _config(site)
    source = config["source"]
    assert source["url"] == "mqtt://127.0.0.1:1999"
    assert source["version"] == 4
    assert source["kind"] == site.kind
    assert source["sensors"] == list(RECIPE.load().names)
    assert source["step_ms"] == RECIPE.step_ms
    assert config["api"]["port"] == 8123
    assert config["board"]["simulate"] is True
    assert config["board"]["window_budget_ms"] == site.window_budget_ms


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_a_site_names_all_that_its_kind_of_plant_needs(site: Site) -> None:
    if site.kind == "sparkplug":
        assert site.group
        assert site.node
        assert site.device
        assert not site.topic
    else:
        assert site.topic
        assert site.answers
        assert ("{sensor}" in site.topic) == (site.kind == "uns")
        assert site.answers != site.topic


def test_three_sites_three_boards_three_ways_to_speak() -> None:
    assert len({site.name for site in SITES}) == 3
    assert len({site.profile for site in SITES}) == 3
    assert {site.kind for site in SITES} == {"sparkplug", "json", "uns"}
