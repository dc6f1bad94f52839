"""JSON of a plant -> readings, by configuration only: topics, pointers, times and numbers.

No code and no templates in the configuration. Nothing here knows a connection or the rows.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Literal

import msgspec

from aimass_shared.errors import InvalidSettingError, MalformedMessageError

_NAMED = re.compile(r"\{(\w+)\}")
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)")
TimeUnit = Literal["ms", "s", "iso"]
Clock = Callable[[object], int]


class TopicFilter:
    """A topic filter whose single-level wildcards may have names: `plant/{line}/{sensor}`."""

    def __init__(self, text: str) -> None:
        levels = text.split("/")
        self._names = [_name_of(level, text) for level in levels]
        self._levels = levels
        self.text = "/".join(
            level if name is None else "+" for level, name in zip(levels, self._names, strict=True)
        )

    @property
    def names(self) -> frozenset[str]:
        """Names of the wildcards."""
        return frozenset(name for name in self._names if name)

    def match(self, topic: str) -> dict[str, str] | None:
        """What the named wildcards stand for, or None if the topic is another one."""
        levels = topic.split("/")
        if len(levels) != len(self._levels):
            return None
        found: dict[str, str] = {}
        for level, fixed, name in zip(levels, self._levels, self._names, strict=True):
            if name:
                found[name] = level
            elif name is None and level != fixed:
                return None
        return found


def _name_of(level: str, text: str) -> str | None:
    """Name of a level's wildcard, "" if it has none, None if it is no wildcard."""
    if level == "+":
        return ""
    match = _NAMED.fullmatch(level)
    if match is None and set(level) & set("+#{}\0"):
        raise InvalidSettingError(
            f"topic {text!r}: {level!r} must be a name, '+' or one wildcard such as '{{line}}'"
        )
    return None if match is None else match[1]


def pointer(text: str) -> tuple[str, ...]:
    """The keys of a JSON pointer (RFC 6901).

    Raises:
        InvalidSettingError: it is neither empty nor begins with "/".
    """
    if not text:
        return ()
    if not text.startswith("/"):
        raise InvalidSettingError(f"JSON pointer {text!r} must begin with '/', such as '/time'")
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in text[1:].split("/"))


def find(document: object, keys: Sequence[str]) -> object:
    """What is at a pointer; `msgspec.UNSET` if nothing is."""
    for key in keys:
        if isinstance(document, dict):
            document = document.get(key, msgspec.UNSET)
        elif isinstance(document, list) and key.isdecimal() and int(key) < len(document):
            document = document[int(key)]
        else:
            return msgspec.UNSET
    return document


def read_json(raw: bytes) -> object:
    """Decode JSON; also NaN and Infinity, which many plants send though JSON has none.

    Raises:
        MalformedMessageError: it is no JSON.
    """
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        pass
    except RecursionError as error:
        raise MalformedMessageError("JSON is nested too deeply") from error
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"no JSON: {error}") from error


def number(value: object) -> float | None:
    """A value as a reading: numbers and truth values; anything else is missing."""
    if not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def clock(unit: TimeUnit) -> Clock:
    """What reads times of a unit into UTC milliseconds; it raises MalformedMessageError."""
    return {"ms": _read_ms, "s": _read_s, "iso": _read_iso}[unit]


def _read_ms(value: object) -> int:
    milliseconds = None if isinstance(value, bool) else number(value)
    if milliseconds is None or not math.isfinite(milliseconds):
        raise MalformedMessageError(f"time must be a number, got {value!r:.60}")
    return value if isinstance(value, int) else round(milliseconds)


def _read_s(value: object) -> int:
    seconds = None if isinstance(value, bool) else number(value)
    if seconds is None or not math.isfinite(seconds):
        raise MalformedMessageError(f"time must be a number of seconds, got {value!r:.60}")
    return round(seconds * 1000) if abs(seconds) < 1e300 else round(seconds)  # noqa: PLR2004 - overflow


def _read_iso(value: object) -> int:
    """ISO 8601; without a zone it is UTC. Fractions of any length: Python 3.10 reads only six."""
    if not isinstance(value, str):
        raise MalformedMessageError(f"time must be ISO 8601 text, got {value!r:.60}")
    text = _FRACTION.sub(lambda match: f".{match[1][:6]:0<6}", value.strip())
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]\Z", "+00:00", text))
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return round(zoned.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise MalformedMessageError(f"time {value!r:.60} is not ISO 8601: {error}") from error
