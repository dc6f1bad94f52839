"""Sources that speak JSON: one object a row (`JsonRows`), or one tag a topic (`UnsTags`).

Which keys and topics are which channels is configuration; keys and tags that no channel names are
passed over. One topic feeds a channel: two machines behind one filter must not be mixed up.
"""

from collections.abc import Sequence

import msgspec

from aimass_edge.bus import Inbound
from aimass_edge.config import SourceSettings
from aimass_edge.ingest.mapping import TopicFilter, clock, find, number, pointer, read_json
from aimass_edge.ingest.source import channels
from aimass_shared.errors import ConflictError, InvalidSettingError, MalformedMessageError
from aimass_shared.sparkplug.rules import Publication
from aimass_shared.windows import RowGrid


class _JsonSource:
    """What both have: the topic filter, the time, and that they never ask for anything."""

    def __init__(self, settings: SourceSettings, grid: RowGrid) -> None:
        if not settings.topic:
            raise InvalidSettingError(f"source kind {settings.kind!r} needs `topic`")
        self._filter = TopicFilter(settings.topic)
        self._grid = grid
        self._time_keys = pointer(settings.time_field)
        self._clock = clock(settings.time_unit)

    @property
    def filters(self) -> Sequence[str]:
        """Topic filters to subscribe to."""
        return (self._filter.text,)

    def tick(self, now_ms: int) -> None:
        """Nothing waits here."""

    def connected(self) -> None:
        """Nothing to do: values come when they come."""

    def lost(self, now_ms: int) -> None:
        """What held while we were connected does not hold any more."""
        self._grid.lose(now_ms=now_ms)

    def requests(self, now_ms: int) -> list[Publication]:
        """Nothing: these sources cannot be asked."""
        del now_ms
        return []

    def _time(self, document: object, now_ms: int) -> int:
        """The message's time; without a `time_field` in the settings, that of its arrival."""
        if not self._time_keys:
            return now_ms
        value = find(document, self._time_keys)
        if value is msgspec.UNSET:
            raise MalformedMessageError(
                f"no time at /{'/'.join(self._time_keys)}; set `time_field` to where it is"
            )
        return self._clock(value)


class JsonRows(_JsonSource):
    """One object a row: `{"timestamp_ms": ..., "T": 71.2, "reactor": {"p": 2.7}}`.

    A channel's name is a key, or keys of nested objects joined by "/".
    """

    def __init__(self, settings: SourceSettings, grid: RowGrid) -> None:
        super().__init__(settings, grid)
        self._channels = [
            (name, tuple(name.split("/")), index) for name, index in channels(settings).items()
        ]
        self._owner: str | None = None

    def take(self, message: Inbound, now_ms: int) -> None:
        """Put one object's values into the grid.

        Raises:
            MalformedMessageError: no JSON object, no time, or no value of any channel.
            ConflictError: another topic feeds these channels.
        """
        if self._filter.match(message.topic) is None:
            return
        document = read_json(message.payload)
        if not isinstance(document, dict):
            raise MalformedMessageError("a row must be a JSON object")
        time_ms = self._time(document, now_ms)
        found = 0
        for name, keys, index in self._channels:
            value = document[name] if name in document else find(document, keys)
            if value is msgspec.UNSET:
                continue
            if not found:
                self._claim(message.topic)
            found += 1
            self._grid.add(index, time_ms, number(value), now_ms=now_ms)
        if not found:
            raise MalformedMessageError("none of the configured sensors is in the object")

    def _claim(self, topic: str) -> None:
        if self._owner is None:
            self._owner = topic
        if self._owner != topic:
            raise ConflictError(
                f"rows come from {self._owner!r} already; narrow `topic` to one machine"
            )


class UnsTags(_JsonSource):
    """One tag a topic, `{"timestamp_ms": ..., "value": ...}`; `{sensor}` in the filter names it."""

    def __init__(self, settings: SourceSettings, grid: RowGrid) -> None:
        super().__init__(settings, grid)
        if "sensor" not in self._filter.names:
            raise InvalidSettingError(
                f"topic {settings.topic!r} must name the tag's level '{{sensor}}'"
            )
        self._channels = channels(settings)
        self._topics: dict[str, int] = {}

    def take(self, message: Inbound, now_ms: int) -> None:
        """Put one tag's value into the grid.

        Raises:
            MalformedMessageError: no JSON object, no time, or no value.
            ConflictError: another topic feeds this channel.
        """
        index = self._topics.get(message.topic)
        if index is None:
            index = self._claim(message.topic)
        if index is None:
            return
        document = read_json(message.payload)
        if not isinstance(document, dict) or "value" not in document:
            raise MalformedMessageError('a tag must be a JSON object with "value"')
        time_ms = self._time(document, now_ms)
        self._grid.add(index, time_ms, number(document["value"]), now_ms=now_ms)

    def _claim(self, topic: str) -> int | None:
        """The channel of a new topic; only topics of channels are remembered."""
        found = self._filter.match(topic)
        index = None if found is None else self._channels.get(found["sensor"])
        if index is None:
            return None
        if index in self._topics.values():
            raise ConflictError("another topic feeds this sensor; narrow `topic` to one machine")
        self._topics[topic] = index
        return index
