import pytest

from aimass_shared.errors import InvalidSettingError, MalformedMessageError
from aimass_shared.sparkplug import state, topics
from aimass_shared.sparkplug.topics import Topic


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("spBv1.0/plant/NBIRTH/tep", Topic("plant", "NBIRTH", "tep")),
        ("spBv1.0/plant/DDATA/tep/reactor 1", Topic("plant", "DDATA", "tep", "reactor 1")),
    ],
)
def test_topics_are_split_and_built(text: str, topic: Topic) -> None:
    assert topics.parse(text) == topic
    assert str(topic) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spBv1.0/STATE/host",
        "spBv1.0/g/DDATA/n",
        "spBv1.0/g/NDATA/n/d",
        "spBv1.0/g/NDATA/",
        "spBv1.0/g/XDATA/n",
        "spAv1.0/g/NDATA/n",
        "spBv1.0/g/DDATA/n/d/e",
    ],
)
def test_other_topics_are_refused(text: str) -> None:
    with pytest.raises(MalformedMessageError):
        topics.parse(text)


@pytest.mark.parametrize("text", ["", "a/b", "+", "a#"])
def test_ids_have_no_character_of_a_filter(text: str) -> None:
    with pytest.raises(InvalidSettingError):
        topics.check_id(text, "node")
    assert topics.check_id("reactor 1", "node") == "reactor 1"


def test_state_is_json_and_strict() -> None:
    online = state.State(online=True, timestamp=5)
    assert state.decode(state.encode(online)) == online
    assert state.encode(online) == b'{"online":true,"timestamp":5}'
    for raw in (b"ONLINE", b"{}", b'{"online":1,"timestamp":5}', b" " * 2000):
        with pytest.raises(MalformedMessageError):
            state.decode(raw)
