"""An edge session against a host session over a wire that loses, delays and cuts."""

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aimass_shared.errors import ConflictError, MalformedMessageError, NotFoundError
from aimass_shared.sparkplug import rules, state, topics
from aimass_shared.sparkplug.host import Event, Gone, HostOptions, HostSession, HostState, Sample
from aimass_shared.sparkplug.payload import BAD, DataType, Metric, Payload, Value, decode, encode
from aimass_shared.sparkplug.session import EdgeOptions, EdgeSession, Publication
from aimass_shared.sparkplug.topics import Topic

DEVICE = "reactor"


def metric(name: str, value: Value = None, at: int | None = None) -> Metric:
    return Metric(name=name, datatype=DataType.INT16, value=value, timestamp=at)


def edge(*, aliases: bool = False, datatypes: bool = False, primary: str = "") -> EdgeSession:
    announced = {"": [metric("load", 1)], DEVICE: [metric("T", -5), metric("p", 7)]}
    options = EdgeOptions(aliases=aliases, datatypes=datatypes, primary=primary)
    return EdgeSession("plant", "tep", announced, options=options)


def read(publication: Publication) -> tuple[Topic, Payload]:
    return topics.parse(publication.topic), decode(publication.payload)


def sent(session: EdgeSession, value: int, name: str = "T") -> Publication:
    publication = session.data(DEVICE, [metric(name, value, 5)], now_ms=6)
    assert publication is not None
    return publication


def feed(host: HostSession, publications: Iterable[Publication], now_ms: int = 0) -> list[Event]:
    events: list[Event] = []
    for publication in publications:
        events += host.take(topics.parse(publication.topic), publication.payload, now_ms)
    return events


def values(events: Iterable[Event]) -> list[tuple[str | None, Value]]:
    samples = [event for event in events if isinstance(event, Sample)]
    return [(m.name, m.value) for s in samples if s.topic.device for m in s.metrics]


def asked(host: HostSession, now_ms: int = 0) -> bool:
    requests = host.rebirths(now_ms)
    for request in requests:
        topic, payload = read(request)
        assert topic == Topic("plant", "NCMD", "tep")
        assert [(m.name, m.value) for m in payload.metrics] == [("Node Control/Rebirth", True)]
        assert payload.timestamp is not None
        assert payload.seq is None
    return bool(requests)


def test_births_announce_everything_in_order_with_one_bd_seq() -> None:
    session = edge()
    will = session.will(1)
    node, device = session.births(2)
    topic, payload = read(will)
    assert (topic, will.qos, will.retain) == (Topic("plant", "NDEATH", "tep"), 1, False)
    assert payload.seq is None
    assert [(m.name, m.datatype, m.value) for m in payload.metrics] == [("bdSeq", 4, 0)]
    topic, payload = read(node)
    assert (topic.kind, payload.seq) == ("NBIRTH", 0)
    assert [(m.name, m.value) for m in payload.metrics] == [
        ("bdSeq", 0),
        ("Node Control/Rebirth", False),
        ("load", 1),
    ]
    topic, payload = read(device)
    assert (topic, payload.seq) == (Topic("plant", "DBIRTH", "tep", DEVICE), 1)
    assert [(m.name, m.value, m.timestamp) for m in payload.metrics] == [("T", -5, 2), ("p", 7, 2)]


def test_data_has_neither_datatype_nor_the_name_of_an_alias() -> None:
    for aliases in (False, True):
        session = edge(aliases=aliases)
        session.will(0)
        session.births(1)
        (found,) = read(sent(session, 9))[1].metrics
        assert found.datatype is None
        assert (found.name, found.alias) == ((None, 2) if aliases else ("T", None))
    talkative = edge(datatypes=True)
    talkative.will(0)
    talkative.births(1)
    assert read(sent(talkative, 9))[1].metrics[0].datatype == DataType.INT16


def test_seq_wraps_and_a_rebirth_keeps_bd_seq_and_has_the_newest_values() -> None:
    session = edge()
    session.will(0)
    session.births(1)
    numbers = [read(sent(session, n))[1].seq for n in range(300)]
    assert numbers[:2] + numbers[253:256] == [2, 3, 255, 0, 1]
    node, device = session.births(2)
    assert read(node)[1].seq == 0
    assert read(node)[1].metrics[0].value == 0
    assert read(device)[1].metrics[0].value == 299


def test_each_connect_is_a_session_of_its_own() -> None:
    session = EdgeSession("plant", "tep", {"": []}, options=EdgeOptions(first_bd_seq=255))
    for number in (255, 0, 1):
        will = session.will(0)
        assert session.data("", [], now_ms=1) is None
        (birth,) = session.births(1)
        goodbye = session.death(2)
        assert [read(m)[1].metrics[0].value for m in (will, birth, goodbye)] == [number] * 3
        assert not session.born


def test_before_the_birth_values_wait_for_it() -> None:
    session = edge()
    session.will(0)
    assert session.data(DEVICE, [metric("T", 3, 4)], now_ms=5) is None
    with pytest.raises(ConflictError):
        session.device_death(DEVICE, now_ms=5)
    first = read(session.births(6)[1])[1].metrics[0]
    assert (first.value, first.timestamp) == (3, 4)


@pytest.mark.parametrize("end", ["will", "lost"])
def test_a_new_or_lost_connection_needs_new_births(end: str) -> None:
    session = edge()
    session.will(0)
    session.births(1)
    if end == "will":
        session.will(2)
    else:
        session.lost()
    assert session.data(DEVICE, [metric("T", 3, 4)], now_ms=5) is None


def test_what_was_not_announced_is_refused() -> None:
    session = edge()
    with pytest.raises(NotFoundError):
        session.data(DEVICE, [metric("other", 3)], now_ms=5)
    with pytest.raises(NotFoundError):
        session.data("other", [], now_ms=5)


def test_only_a_rebirth_command_to_this_node_is_one() -> None:
    session = edge()
    request = rules.rebirth_request("plant", "tep", 1)
    assert session.commands == request.topic
    assert session.wants_rebirth(*request[:2])
    assert not session.wants_rebirth("spBv1.0/plant/NCMD/other", request.payload)
    off = Metric(name=rules.REBIRTH, datatype=DataType.BOOLEAN, value=False)
    bare = Metric(name=rules.REBIRTH, datatype=DataType.BOOLEAN, value=True)
    assert not session.wants_rebirth(session.commands, encode(Payload(metrics=(off,))))
    without = encode(Payload(metrics=(bare,)), datatypes=False)
    assert session.wants_rebirth(session.commands, without)
    with pytest.raises(MalformedMessageError):
        session.wants_rebirth(session.commands, b"junk")


def test_a_primary_host_is_waited_for_and_left() -> None:
    def said(at: int, *, online: bool) -> bytes:
        return state.encode(state.State(online=online, timestamp=at))

    session = edge(primary="scada")
    session.will(0)
    assert not session.may_birth
    assert session.host_state(said(10, online=True)) == (True, False)
    assert session.may_birth
    session.births(11)
    assert session.host_state(said(9, online=False)) == (False, False)
    assert session.host_state(said(10, online=False)) == (False, True)
    assert not session.may_birth


@pytest.mark.parametrize("aliases", [False, True])
def test_a_host_reads_names_signs_and_times(aliases: bool) -> None:  # noqa: FBT001 - a pytest parameter
    session, host = edge(aliases=aliases), HostSession()
    session.will(0)
    events = feed(host, session.births(1))
    assert values(events) == [("T", -5), ("p", 7)]
    assert [event.birth for event in events if isinstance(event, Sample)] == [True, True]
    (event,) = feed(host, [sent(session, -9)])
    assert isinstance(event, Sample)
    assert (event.birth, event.timestamp, event.metrics[0].timestamp) == (False, 6, 5)
    assert values([event]) == [("T", -9)]
    assert not asked(host)


def test_data_before_the_birth_asks_for_it_not_more_often_than_allowed() -> None:
    session, host = edge(), HostSession()
    session.will(0)
    session.births(1)
    assert feed(host, [sent(session, 1)]) == []
    assert asked(host, 0)
    for now in range(0, 5000, 100):
        assert feed(host, [sent(session, 1)]) == []
        assert asked(host, now) == (now in (2000, 4000))
    feed(host, session.births(2))
    assert values(feed(host, [sent(session, 2)])) == [("T", 2)]
    assert not asked(host, 9000)


def test_messages_out_of_order_are_put_in_order() -> None:
    session, host = edge(), HostSession()
    session.will(0)
    feed(host, session.births(1))
    first, second, third = (sent(session, n) for n in range(3))
    assert feed(host, [third, second]) == []
    assert values(feed(host, [first])) == [("T", 0), ("T", 1), ("T", 2)]
    assert host.tick(10_000) == []
    assert not asked(host, 10_000)


def test_a_lost_message_is_given_up_after_the_reorder_time() -> None:
    session, host = edge(), HostSession(HostOptions(reorder_ms=1000))
    session.will(0)
    feed(host, session.births(1))
    sent(session, 0)
    assert feed(host, [sent(session, 1), sent(session, 2)], 100) == []
    assert host.tick(1099) == []
    assert not asked(host, 1099)
    assert values(host.tick(1100)) == [("T", 1), ("T", 2)]
    assert asked(host, 1100)
    assert values(feed(host, [sent(session, 3)])) == [("T", 3)]


def test_after_a_gap_aliases_are_not_believed_before_the_next_birth() -> None:
    session, host = edge(aliases=True), HostSession()
    session.will(0)
    feed(host, session.births(1))
    sent(session, 0)
    feed(host, [sent(session, 1)], 0)
    assert values(host.tick(1000)) == []
    assert asked(host, 1000)
    feed(host, session.births(2))
    assert values(feed(host, [sent(session, 2)])) == [("T", 2)]


def test_a_repeated_message_is_dropped_and_the_births_are_asked_for() -> None:
    session, host = edge(), HostSession()
    session.will(0)
    feed(host, session.births(1))
    message = sent(session, 1)
    assert len(feed(host, [message])) == 1
    assert feed(host, [message]) == []
    assert asked(host)
    assert values(feed(host, [sent(session, 2)])) == [("T", 2)]


def test_a_death_counts_only_for_its_own_session() -> None:
    session, host = edge(), HostSession()
    old = session.will(0)
    feed(host, session.births(1))
    new = session.will(2)
    feed(host, session.births(3))
    assert feed(host, [old]) == []
    assert feed(host, [new, new]) == [Gone("plant", "tep", "")]
    session.births(4)
    assert feed(host, [sent(session, 1)]) == []
    assert asked(host)


def test_a_dead_device_is_gone_until_it_is_born() -> None:
    session, host = edge(), HostSession()
    session.will(0)
    feed(host, session.births(1))
    assert feed(host, [session.device_death(DEVICE, now_ms=2)]) == [Gone("plant", "tep", DEVICE)]
    assert values(feed(host, [sent(session, 1)])) == []
    assert asked(host)


def test_our_own_loss_makes_everything_stale() -> None:
    session, host = edge(), HostSession()
    session.will(0)
    feed(host, session.births(1))
    host.want_rebirth("plant", "tep")
    assert asked(host, 0)
    assert host.lost() == [Gone("plant", "tep", "")]
    assert host.lost() == []
    feed(host, [sent(session, 1)])
    assert not asked(host, 1999)
    assert asked(host, 2000)


def test_what_cannot_be_read_is_refused_and_asked_for() -> None:
    for raw in (b"junk", encode(Payload(timestamp=1))):
        host = HostSession()
        with pytest.raises(MalformedMessageError):
            host.take(Topic("plant", "NDATA", "tep"), raw, 0)
        assert asked(host)


def test_an_unknown_metric_is_asked_for_and_the_others_are_kept() -> None:
    session, host = edge(), HostSession()
    session.will(0)
    feed(host, session.births(1))
    metrics = (Metric(name="new", datatype=DataType.INT8, value=1), metric("T", 3))
    raw = encode(Payload(timestamp=1, metrics=metrics, seq=2))
    assert values(host.take(Topic("plant", "DDATA", "tep", DEVICE), raw, 0)) == [("T", 3)]
    assert asked(host)


def test_a_value_of_another_type_than_born_is_bad_not_fatal() -> None:
    session, host = edge(), HostSession()
    session.will(0)
    feed(host, session.births(1))
    wrong = Metric(name="T", datatype=DataType.STRING, value="hot")
    raw = encode(Payload(timestamp=1, metrics=(wrong,), seq=2), datatypes=False)
    (event,) = host.take(Topic("plant", "DDATA", "tep", DEVICE), raw, 0)
    assert isinstance(event, Sample)
    assert [(m.value, m.quality) for m in event.metrics] == [(None, BAD)]


def test_commands_of_others_are_passed_over() -> None:
    host = HostSession()
    assert host.take(Topic("plant", "NCMD", "tep"), b"junk", 0) == []
    assert not asked(host)


def test_a_flood_of_held_messages_is_bounded() -> None:
    session, host = edge(), HostSession()
    session.will(0)
    feed(host, session.births(1))
    sent(session, 0)
    events = feed(host, [sent(session, n) for n in range(1, 40)])
    assert values(events) == [("T", n) for n in range(1, 40)]
    assert asked(host)


def test_a_host_of_our_own_says_so_and_corrects_a_false_offline() -> None:
    host = HostState("aimass")
    will, online = host.will(7), host.online()
    assert [p.topic for p in (will, online)] == [host.topic] * 2
    assert (will.qos, will.retain, online.qos, online.retain) == (1, True, 1, True)
    assert state.decode(will.payload) == state.State(online=False, timestamp=7)
    assert state.decode(online.payload) == state.State(online=True, timestamp=7)
    assert host.answer(will.payload) == online
    assert host.answer(online.payload) is None


class LossyWire(RuleBasedStateMachine):
    """Whatever is lost, after a rebirth the host has the edge's values, and never a false one."""

    def __init__(self) -> None:
        super().__init__()
        self.edge, self.host, self.now = edge(aliases=True), HostSession(), 0
        self.truth: dict[str, set[Value]] = {"T": {-5}, "p": {7}}
        self.seen: dict[str | None, Value] = {}
        self.will: Publication | None = None
        self.delayed: list[Publication] = []

    def deliver(self, publications: list[Publication]) -> None:
        for name, value in values(feed(self.host, publications, self.now)):
            self.seen[name] = value

    @rule(lose=st.booleans())
    def connect(self, lose: bool) -> None:  # noqa: FBT001 - hypothesis passes it by name
        self.will = self.edge.will(self.now)
        births = self.edge.births(self.now)
        self.deliver(births[1:] if lose else births)

    @precondition(lambda self: self.edge.born)
    @rule(
        name=st.sampled_from("Tp"),
        value=st.integers(-(2**15), 2**15 - 1),
        fate=st.sampled_from(["arrives", "arrives", "lost", "delayed"]),
    )
    def report(self, name: str, value: int, fate: str) -> None:
        self.truth[name].add(value)
        message = sent(self.edge, value, name)
        if fate == "delayed":
            self.delayed.append(message)
        elif fate == "arrives":
            self.deliver([message, *self.delayed])
            self.delayed.clear()

    @precondition(lambda self: self.will is not None)
    @rule()
    def cut(self) -> None:
        assert self.will is not None
        self.edge.lost()
        self.deliver([self.will])

    @rule(milliseconds=st.sampled_from([10, 1500, 3000]))
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds
        for name, value in values(self.host.tick(self.now)):
            self.seen[name] = value
        for request in self.host.rebirths(self.now):
            if self.edge.born and self.edge.wants_rebirth(request.topic, request.payload):
                self.deliver(self.edge.births(self.now))
                assert self.seen == {
                    m.name: m.value for m in read(self.edge.births(self.now)[1])[1].metrics
                }
                self.deliver(self.edge.births(self.now))

    @invariant()
    def every_value_that_arrived_was_sent_under_its_name(self) -> None:
        assert all(value in self.truth[str(name)] for name, value in self.seen.items())


LossyWire.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLossyWire = LossyWire.TestCase
