"""Figures as a scraper reads them: by the parser of Prometheus' own client."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from aimass_shared.exposition import Family, by_label, counter, gauge, written

# What the parser itself takes for the end of a line or of a value is none of ours.
texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")) | st.just("\n"))
numbers = st.floats(allow_nan=False) | st.integers(-(2**40), 2**40)


@given(st.dictionaries(texts, numbers, min_size=1, max_size=5))
def test_every_label_and_value_is_read_back(values: dict[str, float]) -> None:
    family = Family("aimass_test", "gauge", "About.", by_label("of", values))
    (found,) = text_string_to_metric_families(written([family]).decode())
    assert (found.name, found.type, found.documentation) == ("aimass_test", "gauge", "About.")
    assert {sample.labels["of"]: sample.value for sample in found.samples} == values


def test_counters_gauges_and_what_has_no_samples() -> None:
    raw = written(
        [
            counter("rows_total", "Rows.", 7),
            gauge("up", "Up.", value=True, broker="plant", site="a"),
            gauge("odd", "Odd.", math.nan),
            Family("none", "gauge", "Nothing yet.", ()),
        ]
    )
    assert raw.decode().splitlines() == [
        "# HELP rows_total Rows.",
        "# TYPE rows_total counter",
        "rows_total 7",
        "# HELP up Up.",
        "# TYPE up gauge",
        'up{broker="plant",site="a"} 1',
        "# HELP odd Odd.",
        "# TYPE odd gauge",
        "odd NaN",
    ]
