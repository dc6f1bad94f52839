"""The waiting line: order within a lane, and no lane starves."""

from hypothesis import given
from hypothesis import strategies as st

from aimass_edge.predict.lanes import TELEMETRY_IN_A_ROW, Lanes

Event = tuple[str, int]


def test_telemetry_goes_first() -> None:
    lanes: Lanes[str] = Lanes()
    lanes.put("request", telemetry=False)
    lanes.put("window", telemetry=True)
    assert [lanes.take(), lanes.take(), lanes.take()] == ["window", "request", None]


def test_a_flood_of_telemetry_lets_requests_through() -> None:
    lanes: Lanes[str] = Lanes()
    for _ in range(10):
        lanes.put("window", telemetry=True)
    lanes.put("request", telemetry=False)
    order = [lanes.take() for _ in range(11)]
    assert order.index("request") == TELEMETRY_IN_A_ROW


def test_an_item_leaves_the_line_once() -> None:
    lanes: Lanes[str] = Lanes()
    lanes.put("a", telemetry=False)
    assert lanes.remove("a")
    assert not lanes.remove("a")
    assert lanes.take() is None


@given(st.lists(st.sampled_from(["window", "request", "take"]), max_size=200))
def test_nothing_is_lost_and_each_lane_keeps_its_order(actions: list[str]) -> None:
    lanes: Lanes[Event] = Lanes()
    put: list[Event] = []
    got: list[Event] = []
    for number, action in enumerate(actions):
        if action == "take":
            item = lanes.take()
            assert (item is None) == (len(put) == len(got))
            got += [item] if item else []
        else:
            put.append((action, number))
            lanes.put(put[-1], telemetry=action == "window")
    assert len(lanes) == len(put) - len(got)
    while (item := lanes.take()) is not None:
        got.append(item)
    for lane in ("window", "request"):
        assert [e for e in got if e[0] == lane] == [e for e in put if e[0] == lane]
