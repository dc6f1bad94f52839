"""Detection at many sites: the test rows' history is the site's own, shrinkage beats its parts."""

import numpy as np

from aimass_cloud.models.shrinkage import SiteRows
from aimass_cloud.recipes.site_detection import LabelledSite, site_report

SENSORS, FAULTY = 6, 600
MIXING = np.eye(SENSORS) + 0.8 * np.eye(SENSORS, k=1)


def _site(seed: int) -> LabelledSite:
    random = np.random.default_rng(seed)
    noise = random.normal(0, 1, (FAULTY + 200, SENSORS)) @ MIXING
    rows = np.zeros_like(noise)
    for at in range(1, len(rows)):
        rows[at] = 0.8 * rows[at - 1] + noise[at]
    rows += 100 * random.normal(0, 1, SENSORS)
    rows[FAULTY:, seed % SENSORS] += random.normal(0, 1.5, 200)
    faulty = np.arange(len(rows)) >= FAULTY
    return LabelledSite(SiteRows(rows[:60], rows[60:140]), rows[140:], faulty[140:])


SITES = {f"site {seed}": _site(seed) for seed in range(8)}


def test_shrinkage_is_reported_beside_its_parts_and_what_needs_no_data() -> None:
    found = site_report(SITES)
    ours, alone = found["site VAR to fleet, averaged"], found["site VAR, averaged"]
    assert ours.auroc is not None
    assert alone.auroc is not None
    assert ours.auroc > alone.auroc + 0.02
    assert found["PCA, averaged"].auroc is not None
    assert ours.auroc > found["PCA, averaged"].auroc
    assert ours.far is not None
    assert ours.far < 0.03
    assert found["always alarm"].mar == 0.0
    assert found["random"].far is not None
    assert 0.4 < found["random"].far < 0.6


def test_history_is_the_rows_before_the_test() -> None:
    site = SITES["site 3"]
    whole = np.concatenate([site.normal.train, site.normal.calibration, site.test])
    assert np.array_equal(site.since(100), whole[40:])
    apart = LabelledSite(
        SiteRows(site.normal.train, site.normal.calibration, is_one_run=False),
        site.test,
        site.faulty,
    )
    assert np.array_equal(apart.since(10), whole[130:])
