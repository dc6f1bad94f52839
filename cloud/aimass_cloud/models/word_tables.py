"""Where a table of words starts: from the texts that a model is trained on, and from spelling.

What a word means is read from the words around it: positive pointwise mutual information, then the
leading singular vectors (Levy and Goldberg, NeurIPS 2014), so that the leading channels are the
best narrower table. How it is written is the sum of random directions, one for each group of two
to four letters (fastText's n-grams, Bojanowski et al., TACL 2017). No torch in here.
"""

from collections.abc import Iterator, Sequence
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from aimass_shared.vocabulary import PADDING, Vocabulary

REACH: Final = 4
"""Words on either side that count as context."""
CONTEXTS: Final = 1000
"""The most frequent words, which alone are contexts: bounds memory for large vocabularies."""
SMOOTHING, POWER = 0.75, 0.5
GRAMS: Final = (2, 3, 4)
DIRECTIONS: Final = 1 << 14
NEGATIONS: Final = frozenset(
    ("no", "not", "none", "nothing", "nobody", "never", "nor", "neither", "without", "cannot", "t")
)
"""Of English: "t" is what is left of "isn't". Training changes their weight and finds others."""

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


def start(
    vocabulary: Vocabulary, ids: Ids, *, meaning: int, form: int, seed: int
) -> dict[str, Floats]:
    """The tables that training starts from, one row for each number of the vocabulary.

    Args:
        vocabulary: of words.
        ids: the training texts `[texts, length]`, two of each pair.
        meaning: numbers of a word's meaning.
        form: numbers of a word's form.
        seed: of what is drawn.

    Returns:
        `meaning` `[V, meaning]`, `form` `[V, form]`, `weight` `[V]` from 0 to 1, rare words high,
        and `negation` `[V]`.
    """
    random = np.random.default_rng(seed)
    known = len(vocabulary.entries) + 1
    contexts = _meanings(ids, vocabulary.size, meaning)
    drawn = random.standard_normal((vocabulary.size, meaning + form)).astype(np.float32)
    drawn /= np.sqrt(np.float32(meaning + form))
    # Words that were never seen beside others have nothing in common with them, or each other.
    alone = np.linalg.norm(contexts, axis=1) == 0
    contexts[alone] = drawn[alone, :meaning]
    forms = drawn[:, meaning:].copy()
    forms[1:known] = _forms(vocabulary.entries, form, random)
    negation = np.zeros(vocabulary.size, np.float32)
    negation[1:known] = [word in NEGATIONS for word in vocabulary.entries]
    return {
        "meaning": contexts,
        "form": forms,
        "weight": weights(ids, vocabulary.size),
        "negation": negation,
    }


def weights(ids: Ids, size: int) -> Floats:
    """How much each word tells `[size]`, 0 to 1: the log of its inverse frequency."""
    counts = np.bincount(ids[ids != PADDING], minlength=size)
    told = np.log1p(len(ids) / (1 + counts))
    told[PADDING] = 0.0
    return np.asarray(told / np.log1p(len(ids)), np.float32)


def _meanings(ids: Ids, size: int, channels: int) -> Floats:
    counts = _neighbours(np.unique(ids, axis=0), size)
    total = counts.sum(axis=0) ** SMOOTHING
    expected = counts.sum(axis=1, keepdims=True) * (total / max(total.sum(), 1.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        told = np.log(counts / expected)
    told = np.maximum(np.nan_to_num(told, nan=0.0, neginf=0.0), 0.0)
    variances, axes = np.linalg.eigh(told.T @ told)
    variances = np.maximum(variances[::-1][:channels], 1e-6)
    found = told @ axes[:, ::-1][:, :channels] * variances ** ((POWER - 1) / 2)
    table = np.zeros((size, channels), np.float32)
    table[:, : found.shape[1]] = found / max(1e-6, np.sqrt((found**2).sum(axis=1).mean()))
    return table


def _neighbours(ids: Ids, size: int) -> Floats:
    """How often a word stands near a context `[size, contexts]`, near ones counting more."""
    contexts = min(size, CONTEXTS)
    counts = np.zeros(size * contexts, np.float32)
    for gap in range(1, REACH + 1):
        for one, other in ((ids[:, :-gap], ids[:, gap:]), (ids[:, gap:], ids[:, :-gap])):
            both = (one != PADDING) & (other != PADDING) & (other < contexts)
            places = one[both] * contexts + other[both]
            counts += np.bincount(places, minlength=len(counts)).astype(np.float32) / gap
    return counts.reshape(size, contexts)


def _forms(words: Sequence[str], channels: int, random: np.random.Generator) -> Floats:
    directions = random.standard_normal((DIRECTIONS, channels), dtype=np.float32)
    forms = np.stack([directions[list(_grams(word))].sum(axis=0) for word in words])
    return np.asarray(forms / np.linalg.norm(forms, axis=1, keepdims=True).clip(1e-6))


def _grams(word: str) -> Iterator[int]:
    marked = f"<{word}>"
    for length in GRAMS:
        for at in range(len(marked) - length + 1):
            yield crc32(marked[at : at + length].encode()) % DIRECTIONS
