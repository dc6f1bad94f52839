"""Vocabularies: the same numbers everywhere, for any text; nothing that is none is taken."""

import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.errors import MalformedMessageError, ModelError
from aimass_shared.manifest import Contract, TensorSpec
from aimass_shared.vocabulary import (
    MAX_BUCKETS,
    MAX_LENGTH,
    MAX_VOCABULARY_BYTES,
    PADDING,
    Coder,
    Vocabulary,
    coder_of,
    fit_items,
    fit_words,
    pack,
    unpack,
    words,
)

ANY = st.text() | st.text(st.characters(exclude_categories=()))  # the latter with lone surrogates
TEXTS = st.lists(st.text(), max_size=8)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The pump, P-101A, is leaking!", ["the", "pump", "p", "101a", "is", "leaking"]),
        (
            "Kühlmittel-Füllstand ist zu niedrig",
            ["kühlmittel", "füllstand", "ist", "zu", "niedrig"],
        ),
        ("u\u0308ber \ufb01lter \uff21\uff11", ["über", "filter", "a1"]),
        ("snake_case 3.5 mm\u00b2", ["snake", "case", "3", "5", "mm2"]),
        ("हिन्दी शब्द", ["हिन्दी", "शब्द"]),
        ("", []),
        (" \t\n\0.,;", []),
    ],
)
def test_words_are_letters_and_digits_in_lower_case(text: str, found: list[str]) -> None:
    assert list(words(text)) == found


def test_case_is_kept_where_the_vocabulary_says_so() -> None:
    assert list(words("Motor A", lower=False)) == ["Motor", "A"]
    kept = fit_words(["Motor motor"], most=9, length=2, lower=False)
    assert kept.entries == ("Motor", "motor")
    assert kept.encode(["MOTOR motor"]).tolist() == [[3, 2]]


def test_the_most_frequent_entries_come_first_and_ties_in_the_order_of_letters() -> None:
    assert fit_words(["b a c", "c b", "c d"], most=3, length=4).entries == ("c", "b", "a")
    assert fit_items(["B a", "a\tC"], most=2, length=4).entries == ("a", "B")


def test_words_are_cut_and_padded_on_the_right() -> None:
    vocabulary = Vocabulary("words", ("a", "b", "c"), length=3)
    assert vocabulary.encode(["a b c a", "C", "", "x b"]).tolist() == [
        [1, 2, 3],
        [3, 0, 0],
        [0, 0, 0],
        [4, 2, 0],
    ]
    assert vocabulary.size == 5


def test_the_newest_known_items_are_kept_and_padded_on_the_left() -> None:
    vocabulary = Vocabulary("items", ("a", "b", "c"), length=2)
    assert vocabulary.encode(["a b c", "A  c x\n", "x"]).tolist() == [[2, 3], [0, 3], [0, 0]]
    assert vocabulary.size == 4


def test_a_word_has_the_same_bucket_on_every_machine() -> None:
    vocabulary = Vocabulary("words", ("a",), length=2, buckets=1000)
    assert vocabulary.encode(["pump Überdruck"]).tolist() == [[711, 112]]
    assert vocabulary.size == 1002


def test_names_of_numbers_have_the_shape_of_the_numbers() -> None:
    vocabulary = Vocabulary("words", ("a", "b"), length=2)
    names = vocabulary.decode(np.array([[2, 1], [0, 3]]))
    assert (names.tolist(), names.dtype) == ([["b", "a"], ["", ""]], np.dtype(object))
    assert vocabulary.decode(np.empty((0, 2), np.int64)).shape == (0, 2)


@pytest.mark.parametrize("number", [-1, 4])
def test_a_number_beyond_the_vocabulary_is_the_fault_of_the_model(number: int) -> None:
    with pytest.raises(ModelError, match="those from 0 to 3"):
        Vocabulary("words", ("a", "b"), length=2).decode(np.array([1, number]))


@given(texts=st.lists(ANY, max_size=5), known=TEXTS, buckets=st.integers(0, 9), lower=st.booleans())
def test_any_text_gets_numbers_within_the_vocabulary(
    *, texts: list[str], known: list[str], buckets: int, lower: bool
) -> None:
    for vocabulary in (
        fit_words(known, most=20, length=4, buckets=buckets, lower=lower),
        fit_items(known, most=20, length=4),
    ):
        ids = vocabulary.encode(texts)
        assert (ids.shape, ids.dtype) == ((len(texts), 4), np.dtype(np.int64))
        assert ((ids >= PADDING) & (ids < vocabulary.size)).all()
        assert vocabulary.decode(ids).shape == ids.shape


@given(TEXTS)
def test_known_entries_come_back_as_they_went(texts: list[str]) -> None:
    known = fit_words(texts, most=10_000, length=64)
    for entry in known.entries:
        assert known.decode(known.encode([entry]))[0].tolist()[:2] == [entry, ""]
    items = fit_items(texts, most=10_000, length=64)
    for entry in items.entries:
        assert items.decode(items.encode([entry]))[0].tolist()[-2:] == ["", entry]


@given(TEXTS, st.integers(1, 9), st.integers(0, 9))
def test_a_vocabulary_reads_back(texts: list[str], length: int, buckets: int) -> None:
    for vocabulary in (
        fit_words(texts, most=9, length=length, buckets=buckets),
        fit_items(texts, most=9, length=length),
    ):
        back = unpack(pack(vocabulary))
        assert back == vocabulary
        assert np.array_equal(back.encode(texts), vocabulary.encode(texts))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_vocabulary_or_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        unpack(raw)


GOOD = {"kind": "words", "entries": ["a"], "length": 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "letters"}, "Invalid enum value"),
        ({"entries": [1]}, "Expected `str`"),
        ({"entries": ["a", "b", "a"]}, "entry 'a' comes twice"),
        ({"length": 0}, "length is 0"),
        ({"length": MAX_LENGTH + 1}, "length is 4097"),
        ({"length": "2"}, "Expected `int`"),
        ({"buckets": -1}, "buckets is -1"),
        ({"buckets": MAX_BUCKETS + 1}, "buckets is"),
        ({"kind": "items", "buckets": 3}, "buckets must be 0"),
        ({"schema": 2}, "schema 2, this version knows 1"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(MalformedMessageError, match=re.escape(said)):
        unpack(msgspec.json.encode(GOOD | change))


@pytest.mark.parametrize("raw", [b"", b"{}", b"null", b"[" * 100_000, b'{"kind":"\xff"}'])
def test_what_is_no_vocabulary_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="does not decode"):
        unpack(raw)


def test_a_vocabulary_over_the_limit_is_neither_written_nor_read() -> None:
    with pytest.raises(MalformedMessageError, match="fit fewer entries"):
        unpack(b" " * (MAX_VOCABULARY_BYTES + 1))
    with pytest.raises(MalformedMessageError, match="fit fewer entries"):
        pack(Vocabulary("items", ("a" * MAX_VOCABULARY_BYTES,), 1))


def test_an_entry_that_is_no_unicode_is_not_written() -> None:
    with pytest.raises(MalformedMessageError, match="cannot be written"):
        pack(Vocabulary("items", ("\ud800",), 1))


RANKER = Contract(
    model="next",
    inputs=(TensorSpec("history", "BYTES", (-1,)), TensorSpec("price", "FP32", (-1, 1))),
    outputs=(TensorSpec("items", "BYTES", (-1, 2)), TensorSpec("score", "FP32", (-1, 2))),
    task="rank",
)
ITEMS = Vocabulary("items", ("a", "b", "c"), length=2)


def test_a_coder_stands_between_texts_and_numbers() -> None:
    coder = coder_of(RANKER, pack(ITEMS))
    assert coder.inputs == (TensorSpec("history", "INT64", (-1, 2)), RANKER.inputs[1])
    assert coder.outputs == (TensorSpec("items", "INT64", (-1, 2)), RANKER.outputs[1])
    price = np.ones((1, 1), np.float32)
    feeds = coder.encode({"history": np.array(["a b c"], object), "price": price})
    assert feeds["history"].tolist() == [[2, 3]]
    assert feeds["price"] is price
    outputs = coder.decode({"items": np.array([[3, 0]]), "score": price, "more": price})
    assert outputs["items"].tolist() == [["c", ""]]
    assert outputs["more"] is price


def test_a_contract_without_texts_needs_no_vocabulary() -> None:
    numbers = msgspec.structs.replace(RANKER, inputs=RANKER.inputs[1:], outputs=RANKER.outputs[1:])
    price = np.ones((1, 1), np.float32)
    for coder in (coder_of(numbers, None), coder_of(numbers, pack(ITEMS))):
        assert (coder.inputs, coder.outputs) == (numbers.inputs, numbers.outputs)
        assert coder.encode({"price": price})["price"] is price


def test_a_contract_that_cannot_be_coded_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="next takes or gives texts"):
        coder_of(RANKER, None)
    wide = msgspec.structs.replace(RANKER, inputs=(TensorSpec("history", "BYTES", (-1, 2)),))
    with pytest.raises(MalformedMessageError, match=re.escape("its shape must be [-1]")):
        Coder(wide, ITEMS)


def test_texts_come_as_whole_numbers() -> None:
    with pytest.raises(ModelError, match="items is of float32; texts come as INT64"):
        Coder(RANKER, ITEMS).decode({"items": np.zeros((1, 2), np.float32)})
