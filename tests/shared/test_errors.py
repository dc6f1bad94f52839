"""The error tree: drawn as it is, every leaf with a code and an HTTP error status."""

import re

from aimass_shared import errors
from aimass_shared.errors import AimassError, OverloadedError


def _all(kind: type[AimassError]) -> list[type[AimassError]]:
    mine = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [kind, *(below for child in mine for below in _all(child))]


def test_the_tree_in_the_docstring_is_the_tree_of_the_code() -> None:
    drawn = set(re.findall(r"\b[A-Z]\w+Error\b", errors.__doc__ or ""))
    assert drawn == {kind.__name__ for kind in _all(AimassError)}


def test_codes_are_short_words_with_hyphens_and_statuses_are_errors() -> None:
    for kind in _all(AimassError):
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code), kind
        assert 400 <= kind.status < 600, kind


def test_an_error_prints_as_one_line_that_ends_in_its_code() -> None:
    error = OverloadedError("queue of 64 is full")
    assert str(error) == "queue of 64 is full [overloaded]"
    assert error.detail == "queue of 64 is full"
