"""Settings from defaults, TOML files, the environment and the command line, into frozen structs.

Every value remembers where it came from, so that an error names the file or the variable to
mend. This module knows no setting by name: those are the structs in each side's `config` module.
"""

import difflib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import msgspec

from aimass_shared.errors import InvalidSettingError, SettingsError, UnknownSettingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T", bound=msgspec.Struct)

# Both sides may share one environment (the demo): a variable belongs to the longest of these.
PREFIXES = ("AIMASS_", "AIMASS_EDGE_")
COMMAND_LINE = "the command line"


class _Entry(NamedTuple):
    """A value, or a table of entries, and the file or variable that set it."""

    value: object
    origin: str


class _Text(str):
    """A value that was typed as text; the setting's type decides how it is read."""

    __slots__ = ()


_Table = dict[str, _Entry]
_Free = dict[str, object]
"""A table whose keys no struct knows."""


def load(  # noqa: PLR0913  by name, and each has a default
    kind: type[T],
    *,
    prefix: str,
    files: Sequence[Path] = (),
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    base: T | None = None,
) -> T:
    """Read settings; later sources win, tables are merged key by key.

    Args:
        kind: a struct with a default for every optional setting; may hold other structs.
        prefix: of environment variables; `PREFIX_HTTP__PORT=8081` sets `http.port`. Lists and
            tables are written as in TOML or JSON.
        files: TOML files, in order.
        environ: the environment; that of this process if not given.
        overrides: from the command line, by dotted key; those that are None were not given.
        base: what holds where no source says otherwise; the defaults of `kind` if not given.

    Raises:
        UnknownSettingError: a key that `kind` does not have; the detail suggests the nearest.
        InvalidSettingError: a value of the wrong type or range, a required one that is missing, or
            a file that cannot be read.
    """
    table: _Table = {}
    for path in files:
        _merge(table, _entries(_read_toml(path), str(path)))
    _merge(table, _from_environment(os.environ if environ is None else environ, prefix))
    _merge(table, _from_overrides(overrides or {}))
    return cast("T", _Builder(kind, prefix).build(table, base))


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidSettingError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettingError(f"{path} is not valid TOML: {error}") from error


def _entries(values: Mapping[str, object], origin: str) -> _Table:
    return {key: _entry(value, origin) for key, value in values.items()}


def _entry(value: object, origin: str) -> _Entry:
    if isinstance(value, dict):
        return _Entry(_entries(value, origin), origin)
    return _Entry(value, origin)


def _from_environment(environ: Mapping[str, str], prefix: str) -> _Table:
    longer = tuple(p for p in PREFIXES if p.startswith(prefix) and p != prefix)
    table: _Table = {}
    for name, text in sorted(environ.items()):
        if name.startswith(prefix) and not (longer and name.startswith(longer)):
            key = name[len(prefix) :].lower().split("__")
            _merge(table, _nested(key, _entry(_table_or_text(text), name)))
    return table


def _from_overrides(overrides: Mapping[str, object]) -> _Table:
    table: _Table = {}
    for key, value in overrides.items():
        if value is not None:
            typed = _table_or_text(value) if isinstance(value, str) else value
            _merge(table, _nested(key.split("."), _entry(typed, COMMAND_LINE)))
    return table


def _nested(key: Sequence[str], entry: _Entry) -> _Table:
    for part in reversed(key[1:]):
        entry = _Entry({part: entry}, entry.origin)
    return {key[0]: entry}


def _merge(into: _Table, new: _Table) -> None:
    for key, entry in new.items():
        old = into.get(key)
        if old and isinstance(old.value, dict) and isinstance(entry.value, dict):
            _merge(old.value, entry.value)
        else:
            into[key] = entry


def _table_or_text(text: str) -> object:
    value = _parsed(text) if text.lstrip().startswith("{") else None
    return value if isinstance(value, dict) else _Text(text)


def _parsed(text: str) -> object:
    """Read text as a TOML value, else as JSON, else leave it text."""
    try:
        values = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        values = {}
    if values.keys() == {"value"}:
        return cast(object, values["value"])
    try:
        return cast(object, msgspec.json.decode(text))
    except msgspec.DecodeError:
        return text


class _Builder:
    """Turns a merged table into structs, and what does not fit into an error that helps."""

    def __init__(self, root: type[msgspec.Struct], prefix: str) -> None:
        self._root = root
        self._prefix = prefix

    def build(self, table: _Table, base: msgspec.Struct | None) -> msgspec.Struct:
        return self._struct(self._root, table, (), base=base)

    def _struct(
        self,
        kind: type[msgspec.Struct],
        table: _Table,
        path: tuple[str, ...],
        *,
        base: msgspec.Struct | None = None,
    ) -> msgspec.Struct:
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        for key, entry in table.items():
            if key not in fields:
                raise self._unknown((*path, key), entry.origin, list(fields))
        values: dict[str, object] = {}
        for key, field in fields.items():
            here = (*path, key)
            default = _default(field) if base is None else getattr(base, field.name)
            if key in table:
                values[field.name] = self._value(field.type, table[key], here, default=default)
            elif default is msgspec.NODEFAULT:
                raise self._missing(here)
            else:
                values[field.name] = default
        return self._made(kind, values, (path, table))

    def _value(
        self, annotation: object, entry: _Entry, path: tuple[str, ...], *, default: object
    ) -> object:
        nested = _struct_of(annotation)
        if nested is None:
            found = _converted(annotation, entry, path)
            free = isinstance(found, dict) and isinstance(default, dict)
            return {**cast("_Free", default), **cast("_Free", found)} if free else found
        if isinstance(entry.value, dict):
            base = default if isinstance(default, nested) else None
            return self._struct(nested, entry.value, path, base=base)
        raise InvalidSettingError(f"`{_dotted(path)}` must be a table (set by {entry.origin})")

    def _made(
        self,
        kind: type[msgspec.Struct],
        values: dict[str, object],
        where: tuple[tuple[str, ...], _Table],
    ) -> msgspec.Struct:
        try:
            return kind(**values)
        except (ValueError, TypeError) as error:  # from the struct's own __post_init__
            path, table = where
            origins = ", ".join(sorted({entry.origin for entry in table.values()})) or "defaults"
            name = _dotted(path) or "settings"
            raise InvalidSettingError(f"`{name}`: {error} (set by {origins})") from error

    def _unknown(self, path: tuple[str, ...], origin: str, siblings: list[str]) -> SettingsError:
        nearest = difflib.get_close_matches(path[-1], siblings, n=1)
        if nearest:
            guess = _dotted((*path[:-1], nearest[0]))
        else:
            guess = _elsewhere(path[-1], list(_keys(self._root)))
        hint = f"did you mean `{guess}`?" if guess else f"known here: {', '.join(siblings)}"
        return UnknownSettingError(f"no setting `{_dotted(path)}` (set by {origin}); {hint}")

    def _missing(self, path: tuple[str, ...]) -> SettingsError:
        variable = self._prefix + "__".join(path).upper()
        return InvalidSettingError(
            f"`{_dotted(path)}` is required: set it in a file, or as {variable}"
        )


def _default(field: msgspec.structs.FieldInfo) -> object:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _struct_of(annotation: object) -> type[msgspec.Struct] | None:
    """The struct that an annotation stands for, also behind `| None` and `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    if get_origin(annotation) is Annotated:
        return _struct_of(get_args(annotation)[0])
    if type(None) in get_args(annotation):
        found = [_struct_of(argument) for argument in get_args(annotation)]
        return next((kind for kind in found if kind), None)
    return None


def _converted(annotation: object, entry: _Entry, path: tuple[str, ...]) -> object:
    result: object = None
    for value, strict in _readings(_plain(entry.value)):
        result = _attempt(annotation, value, strict=strict)
        if not isinstance(result, msgspec.ValidationError):
            return result
    raise InvalidSettingError(
        f"`{_dotted(path)}` must be {_described(annotation)}: {result} (set by {entry.origin})"
    )


def _attempt(annotation: object, value: object, *, strict: bool) -> object:
    # msgspec takes any annotation; its stub says type.
    kind = cast("type[object]", annotation)
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        return error


def _readings(value: object) -> list[tuple[object, bool]]:
    """How a value may be read, best first; the last one makes the message of an error."""
    if isinstance(value, _Text):
        text = str(value)
        return [(text, True), (text, False), (_parsed(text), True)]
    return [(value, True)]


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(entry.value) for key, entry in value.items()}
    return value


def _described(annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(annotation))
    if get_origin(annotation) in {tuple, list}:
        return f"a list of {_described(get_args(annotation)[0])}"
    if get_origin(annotation) is Annotated:
        return _described(get_args(annotation)[0])
    if get_origin(annotation) is Union or not isinstance(annotation, type):
        return str(annotation).replace("typing.", "")
    return annotation.__name__


def _keys(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in msgspec.structs.fields(kind):
        here = (*path, field.encode_name)
        nested = _struct_of(field.type)
        yield here
        if nested:
            yield from _keys(nested, here)


def _elsewhere(name: str, known: list[tuple[str, ...]]) -> str:
    """The key anywhere in the tree with nearly this last name, dotted; "" if there is none."""
    near = difflib.get_close_matches(name, [key[-1] for key in known], n=1, cutoff=0.75)
    return next((_dotted(key) for key in known if near and key[-1] == near[0]), "")


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)
