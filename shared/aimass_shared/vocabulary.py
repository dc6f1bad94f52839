"""From texts to the numbers that a model takes, and back: the vocabulary of a slice, one JSON file.

Training, serving and devices use this code, so that a word has the same number everywhere. A text
of words is normalised (NFKC), put in lower case if the vocabulary says so, and split where there is
neither a letter nor a digit; a word that is not known gets one of `buckets` numbers by its CRC-32
(hashing trick: Weinberger et al., https://arxiv.org/abs/0902.2206). A text of items is names with
white space between them, oldest first, taken as they are.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from itertools import islice
from typing import Literal
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from aimass_shared.errors import MalformedMessageError, ModelError
from aimass_shared.inference import Tensor
from aimass_shared.manifest import BYTES, Contract, TensorSpec

SCHEMA = 1
MAX_VOCABULARY_BYTES = 8 << 20
MAX_LENGTH = 4096
MAX_BUCKETS = 1 << 20
PADDING = 0
Ids = NDArray[np.int64]
Texts = NDArray[np.object_]


class Vocabulary(msgspec.Struct, frozen=True, dict=True):
    """Numbers of words or of items: 0 is padding, then the entries, then words that are not known.

    Attributes:
        kind: "words" of a text, or "items" of a list in the order of time.
        entries: entry k has the number k + 1.
        length: numbers that one text gets.
        buckets: numbers for words that are no entries; 0 = one number for all of them.
        lower: whether words are put in lower case; items never are.

    Raises:
        MalformedMessageError: an entry comes twice, or a size is out of range.
    """

    kind: Literal["words", "items"]
    entries: tuple[str, ...]
    length: int
    buckets: int = 0
    lower: bool = True
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse what nothing could be encoded with."""
        for fault in _faults(self):
            raise MalformedMessageError(f"vocabulary: {fault}")

    @property
    def size(self) -> int:
        """How many numbers there are, padding included: rows of an embedding."""
        unknown = max(1, self.buckets) if self.kind == "words" else 0
        return 1 + len(self.entries) + unknown

    def encode(self, texts: Iterable[str]) -> Ids:
        """Numbers of texts: `[texts, length]`.

        Words: the first `length`, padded on the right. Items: the newest (last) `length` that are
        known, padded on the left.
        """
        row = self._items if self.kind == "items" else self._words
        rows = [row(text) for text in texts]
        return np.array(rows, np.int64).reshape(len(rows), self.length)

    def decode(self, ids: Ids) -> Texts:
        """The entry of each number, in an array of the same shape; "" where a number has none.

        Raises:
            ModelError: a number is beyond the vocabulary.
        """
        if ids.size and not (ids.min() >= 0 and ids.max() < self.size):
            raise ModelError(
                f"the model gave numbers from {ids.min()} to {ids.max()}; its vocabulary has those"
                f" from 0 to {self.size - 1}"
            )
        return self._names[ids]

    def _words(self, text: str) -> list[int]:
        found = [self._id(word) for word in islice(words(text, lower=self.lower), self.length)]
        return found + [PADDING] * (self.length - len(found))

    def _id(self, word: str) -> int:
        known = self._ids.get(word)
        if known is not None:
            return known
        return 1 + len(self.entries) + crc32(word.encode()) % max(1, self.buckets)

    def _items(self, text: str) -> list[int]:
        known = (self._ids[name] for name in reversed(text.split()) if name in self._ids)
        newest = list(islice(known, self.length))[::-1]
        return [PADDING] * (self.length - len(newest)) + newest

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        return {entry: number for number, entry in enumerate(self.entries, 1)}

    @cached_property
    def _names(self) -> Texts:
        names = np.full(self.size, "", object)
        names[1 : 1 + len(self.entries)] = self.entries
        return names


def _faults(vocabulary: Vocabulary) -> Iterator[str]:
    if vocabulary.schema != SCHEMA:
        yield f"it has schema {vocabulary.schema}, this version knows {SCHEMA}"
    if not 1 <= vocabulary.length <= MAX_LENGTH:
        yield f"length is {vocabulary.length}; it must be from 1 to {MAX_LENGTH}"
    if not 0 <= vocabulary.buckets <= MAX_BUCKETS:
        yield f"buckets is {vocabulary.buckets}; it must be from 0 to {MAX_BUCKETS}"
    if vocabulary.kind == "items" and vocabulary.buckets:
        yield "unknown items are left out: buckets must be 0"
    if len(set(vocabulary.entries)) != len(vocabulary.entries):
        ((twice, _),) = Counter(vocabulary.entries).most_common(1)
        yield f"entry {twice!r} comes twice"


def words(text: str, *, lower: bool = True) -> Iterator[str]:
    """The words of a text, in order: letters and digits with their marks."""
    normal = unicodedata.normalize("NFKC", text)
    if lower:  # which may take a text out of the normal form
        normal = unicodedata.normalize("NFKC", normal.lower())
    return (found.group() for found in _word().finditer(normal))


@lru_cache(maxsize=1)
def _word() -> "re.Pattern[str]":
    r"""A word; `\w` alone would cut words of Indic scripts and Arabic at each vowel mark."""
    marks = "".join(c for c in map(chr, range(0xFFFF)) if unicodedata.category(c)[0] == "M")
    return re.compile(rf"(?:[^\W_]|[{marks}])+")


def fit_words(
    texts: Iterable[str], *, most: int, length: int, buckets: int = 0, lower: bool = True
) -> Vocabulary:
    """The vocabulary of the most frequent words; equally frequent ones in the order of letters.

    Args:
        texts: what a model is trained on; nothing else may be in it.
        most: entries at most.
        length: see `Vocabulary`.
        buckets: see `Vocabulary`.
        lower: see `Vocabulary`.
    """
    counted = Counter(word for text in texts for word in words(text, lower=lower))
    return Vocabulary("words", _frequent(counted, most), length, buckets, lower)


def fit_items(texts: Iterable[str], *, most: int, length: int) -> Vocabulary:
    """The vocabulary of the most frequent items; see `fit_words`."""
    counted = Counter(name for text in texts for name in text.split())
    return Vocabulary("items", _frequent(counted, most), length)


def _frequent(counted: Mapping[str, int], most: int) -> tuple[str, ...]:
    return tuple(sorted(counted, key=lambda entry: (-counted[entry], entry))[:most])


def pack(vocabulary: Vocabulary) -> bytes:
    """A vocabulary as its file.

    Raises:
        MalformedMessageError: it is larger than a device takes, or an entry is no Unicode.
    """
    try:
        raw = msgspec.json.encode(vocabulary)
    except UnicodeEncodeError as error:
        raise MalformedMessageError(f"vocabulary: an entry cannot be written: {error}") from error
    _check_size(raw)
    return raw


def unpack(raw: bytes) -> Vocabulary:
    """Read the file of a vocabulary.

    Raises:
        MalformedMessageError: the bytes are no vocabulary that this version knows.
    """
    _check_size(raw)
    try:
        return msgspec.json.decode(raw, type=Vocabulary)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(f"vocabulary does not decode: {error}") from error


def _check_size(raw: bytes) -> None:
    if len(raw) > MAX_VOCABULARY_BYTES:
        raise MalformedMessageError(
            f"vocabulary has {len(raw)} bytes, the limit is {MAX_VOCABULARY_BYTES}: fit fewer"
            " entries"
        )


class Coder:
    """Stands between the tensors of a contract and those of its ONNX graph.

    A BYTES input `[batch]` is an INT64 input `[batch, length]` of the graph, by the same name; a
    BYTES output is an INT64 output of the same name and shape. Whatever is not BYTES passes.

    Args:
        contract: what callers see.
        vocabulary: None where nothing is BYTES.

    Attributes:
        inputs, outputs: tensors of the graph.

    Raises:
        MalformedMessageError: it is needed and not there, or a BYTES input is not `[batch]`.
    """

    def __init__(self, contract: Contract, vocabulary: Vocabulary | None) -> None:
        self._taken, self._given = _texts(contract.inputs), _texts(contract.outputs)
        if vocabulary is None and (self._taken or self._given):
            raise MalformedMessageError(
                f"{contract.model} takes or gives texts and has no vocabulary: slice it again"
            )
        odd = [spec.name for spec in self._taken.values() if spec.shape != (-1,)]
        if odd:
            raise MalformedMessageError(
                f"input {odd[0]} of {contract.model} has texts: its shape must be [-1]"
            )
        self._vocabulary = vocabulary or _EMPTY
        ids = (-1, self._vocabulary.length)
        self.inputs = tuple(_numbered(spec, ids) for spec in contract.inputs)
        self.outputs = tuple(_numbered(spec, spec.shape) for spec in contract.outputs)

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs of the graph, from those of the contract."""
        encode = self._vocabulary.encode
        return {
            name: encode(array.tolist()) if name in self._taken else array
            for name, array in inputs.items()
        }

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the contract, from those of the graph.

        Raises:
            ModelError: an output is not of INT64, or beyond the vocabulary.
        """
        return {
            name: self._names(name, array) if name in self._given else array
            for name, array in outputs.items()
        }

    def _names(self, name: str, array: Tensor) -> Texts:
        if array.dtype != np.int64:
            raise ModelError(f"output {name} is of {array.dtype}; texts come as INT64")
        return self._vocabulary.decode(array.astype(np.int64, copy=False))


_EMPTY = Vocabulary("items", (), 1)


def _texts(specs: Iterable[TensorSpec]) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in specs if spec.datatype == BYTES}


def _numbered(spec: TensorSpec, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(spec.name, "INT64", shape) if spec.datatype == BYTES else spec


def coder_of(contract: Contract, raw: bytes | None) -> Coder:
    """The coder of a slice with the bytes of its vocabulary, None if it has none.

    Raises:
        MalformedMessageError: they are no vocabulary, or the contract needs one.
    """
    return Coder(contract, None if raw is None else unpack(raw))
