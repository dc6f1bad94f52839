"""Figures of a process in the text format that Prometheus and OpenTelemetry's collector scrape.

Format: Prometheus text exposition 0.0.4. Only counters and gauges: what needs buckets is told as
quantiles that were measured already.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = Mapping[str, str]


class Family(msgspec.Struct, frozen=True):
    """Figures of one name.

    Attributes:
        name: with its unit, and `_total` for a counter. about: for people, one line.
        samples: each value with its labels.
    """

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    samples: tuple[tuple[Labels, float], ...]


def counter(name: str, about: str, value: float, **labels: str) -> Family:
    """A count since the start, of one value."""
    return Family(name, "counter", about, ((labels, value),))


def gauge(name: str, about: str, value: float, **labels: str) -> Family:
    """What is so now, of one value."""
    return Family(name, "gauge", about, ((labels, value),))


def by_label(label: str, values: Mapping[str, float]) -> tuple[tuple[Labels, float], ...]:
    """The samples of a family that differ in one label."""
    return tuple(({label: key}, value) for key, value in values.items())


def written(families: Iterable[Family]) -> bytes:
    """All families as a scraper reads them; one without samples is left out."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines += _lines(family)
    return ("\n".join(lines) + "\n").encode()


def _lines(family: Family) -> list[str]:
    head = [f"# HELP {family.name} {family.about}", f"# TYPE {family.name} {family.kind}"]
    return head + [f"{family.name}{_set(labels)} {_number(v)}" for labels, v in family.samples]


def _set(labels: Labels) -> str:
    pairs = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
