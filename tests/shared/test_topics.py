"""The fleet tree: what is built parses back, and nothing else parses."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared import topics
from aimass_shared.errors import MalformedMessageError
from aimass_shared.topics import FleetTopic, check_segment, parse

names = st.from_regex(topics.SEGMENT, fullmatch=True)
PLAIN = {"state": topics.state, "reported": topics.reported, "desired": topics.desired}
ITEMS = {
    ("up", "d"): topics.stream,
    ("down", "ack"): topics.ack,
    ("down", "round"): topics.round_task,
    ("up", "round"): topics.round_reply,
}


@given(names, st.sampled_from(sorted(PLAIN)))
def test_topics_without_an_item_parse_back(device: str, kind: str) -> None:
    way = "down" if kind == "desired" else "up"
    assert parse(PLAIN[kind](device)) == FleetTopic(device, way, kind, "")


@given(names, names, st.sampled_from(sorted(ITEMS)))
def test_topics_with_an_item_parse_back(device: str, item: str, place: tuple[str, str]) -> None:
    build: Callable[[str, str], str] = ITEMS[place]
    assert parse(build(device, item)) == FleetTopic(device, *place, item)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "aimass/v1/north/up",
        "aimass/v1/north/up/desired",
        "aimass/v1/north/down/state",
        "aimass/v1/north/up/d/",
        "aimass/v1/north/up/d/a/b",
        "aimass/v1/+/up/state",
        "aimass/v1//up/state",
        "aimass/v2/north/up/state",
        "spBv1.0/group/NBIRTH/node",
        "aimass/v1/north/up/state\n",
    ],
)
def test_other_topics_do_not_parse(topic: str) -> None:
    with pytest.raises(MalformedMessageError, match="not in the fleet tree"):
        parse(topic)


@pytest.mark.parametrize("text", ["", ".hidden", "a/b", "a+b", "#", "a b", "ä", "x" * 65, "a\n"])
def test_segments_that_cannot_stand_in_a_topic_are_refused(text: str) -> None:
    with pytest.raises(MalformedMessageError, match="1-64 letters"):
        check_segment(text, "site")


def test_a_device_is_kept_in_its_own_subtree_by_one_pattern() -> None:
    assert topics.all_down("north").startswith("aimass/v1/north/down/")
    assert topics.desired("north").startswith("aimass/v1/north/down/")
    assert topics.ack("north", "predictions").startswith("aimass/v1/north/down/")
    assert topics.round_task("north", "t").startswith("aimass/v1/north/down/")
