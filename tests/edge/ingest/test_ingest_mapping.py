import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_edge.ingest.mapping import TopicFilter, clock, find, number, pointer, read_json
from aimass_shared.errors import InvalidSettingError, MalformedMessageError


def test_named_wildcards_are_subscribed_to_and_read_back() -> None:
    topic = TopicFilter("umh/v1/{line}/_raw/{sensor}/+")
    assert topic.text == "umh/v1/+/_raw/+/+"
    assert topic.names == {"line", "sensor"}
    assert topic.match("umh/v1/a/_raw/XMEAS_01/x") == {"line": "a", "sensor": "XMEAS_01"}
    for other in (
        "umh/v1/a/_raw/b",
        "umh/v1/a/_raw/b/c/d",
        "umh/v2/a/_raw/b/c",
        "umh.v1.a._raw.b.c",
    ):
        assert topic.match(other) is None


@pytest.mark.parametrize("text", ["a/#", "a/{b", "a/x{b}", "a+/b", "{a-b}"])
def test_other_wildcards_are_refused(text: str) -> None:
    with pytest.raises(InvalidSettingError):
        TopicFilter(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {"a": {"b/c": [7]}}),
        ("/a/b~1c/0", 7),
        ("/a/b~1c/1", None),
        ("/a/b~1c/0/x", None),
        ("/x", None),
        ("/a/b~1c/-1", None),
    ],
)
def test_pointers(text: str, value: object) -> None:
    found = find({"a": {"b/c": [7]}}, pointer(text))
    assert (found == value) if value is not None else repr(found) == "UNSET"


def test_a_pointer_begins_with_a_slash() -> None:
    with pytest.raises(InvalidSettingError):
        pointer("time")


@pytest.mark.parametrize(
    ("unit", "value", "milliseconds"),
    [
        ("ms", 1733904005123, 1733904005123),
        ("ms", 1733904005123.4, 1733904005123),
        ("s", 1733904005.5, 1733904005500),
        ("iso", "2024-07-29T15:02:17.1858435Z", 1722265337186),
        ("iso", "2024-07-29T15:02:17.1+00:00", 1722265337100),
        ("iso", "2024-07-29T17:02:17,25+02:00", 1722265337250),
        ("iso", "2024-07-29T15:02:17", 1722265337000),
    ],
)
def test_times(unit: str, value: object, milliseconds: int) -> None:
    assert clock(unit)(value) == milliseconds  # type: ignore[arg-type]  # a literal of the table


@pytest.mark.parametrize("unit", ["ms", "s", "iso"])
@pytest.mark.parametrize(
    "value", [None, "soon", True, [], {}, math.nan, math.inf, 10**400, "2024-13-01", "9" * 400]
)
def test_what_is_no_time_is_refused(unit: str, value: object) -> None:
    with pytest.raises(MalformedMessageError):
        clock(unit)(value)  # type: ignore[arg-type]  # a literal of the table


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists))
def test_any_value_is_a_number_or_missing(value: object) -> None:
    found = number(value)
    assert found is None or isinstance(found, float)


@given(st.dictionaries(st.text(), st.integers(-(2**60), 2**60) | st.text()))
def test_json_is_read_as_the_standard_library_does(document: dict[str, object]) -> None:
    assert read_json(json.dumps(document).encode()) == document


def test_json_with_nan_is_read_and_junk_is_refused() -> None:
    document = read_json(b'{"p": NaN, "q": -Infinity, "r": 1}')
    assert isinstance(document, dict)
    assert math.isnan(document["p"])
    assert (document["q"], document["r"]) == (-math.inf, 1)
    for raw in (b"", b"{", b"\xff", b"[" * 100_000, b"21.5 C"):
        with pytest.raises(MalformedMessageError):
            read_json(raw)
