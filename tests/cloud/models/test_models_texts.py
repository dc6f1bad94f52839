"""The text matcher: order, padding and width, and where its table of words starts."""

import pytest
import torch
from torch import Tensor

from aimass_cloud.models import word_tables
from aimass_cloud.models.network import called, narrowed, nesting_of, predictor, tensors
from aimass_cloud.models.texts import TextMatcher, TextsConfig, shares
from aimass_shared.vocabulary import Vocabulary, fit_words

TEXTS = (
    *("the pump leaks oil", "the pumps leak oil", "the motor leaks oil", "replace the motor"),
    *("replace the pump", "change out the pump", "change out the motor", "the motor is not hot"),
    *("the pump is hot", "no oil in the motor", "no oil in the pump", ""),
)
CONFIG = TextsConfig(meaning=8, form=8, hidden=8)
WIDTHS = (1.0, 0.5, 0.25)
WORDS = fit_words(TEXTS, most=100, length=8, buckets=4)


def started(vocabulary: Vocabulary = WORDS, meaning: int = 8) -> dict[str, Tensor]:
    ids = vocabulary.encode(TEXTS)
    return tensors(word_tables.start(vocabulary, ids, meaning=meaning, form=8, seed=3))


def network() -> TextMatcher:
    torch.manual_seed(1)
    span = {"low": torch.tensor([1.0]), "span": torch.tensor([4.0])}
    return TextMatcher(CONFIG, {**started(), **span}).eval()


def pairs(*texts: tuple[str, str], length: int = 8) -> tuple[Tensor, Tensor]:
    words = Vocabulary("words", WORDS.entries, length, WORDS.buckets)
    one, other = (torch.from_numpy(words.encode(side)) for side in zip(*texts, strict=True))
    return one, other


ALL = [(one, other) for one in TEXTS for other in TEXTS]


@torch.no_grad()
def test_order_does_not_matter() -> None:
    one, other = pairs(*ALL)
    there, back = network()(one, other), network()(other, one)
    for left, right in zip(there, back, strict=True):
        torch.testing.assert_close(left, right)


@torch.no_grad()
def test_room_behind_the_last_word_does_not_matter() -> None:
    short, long = pairs(*ALL), pairs(*ALL, length=20)
    for left, right in zip(network()(*short), network()(*long), strict=True):
        torch.testing.assert_close(left, right)


@torch.no_grad()
def test_answers_are_probabilities_and_scores_of_the_range_even_of_no_words() -> None:
    match, related = network()(*pairs(*ALL))
    assert match.shape == related.shape == (len(ALL),)
    assert bool(((match > 0) & (match < 1)).all())
    assert bool(((related >= 1) & (related <= 5)).all())


@torch.no_grad()
@pytest.mark.parametrize("width", WIDTHS)
def test_a_slice_computes_what_the_leading_part_computes(width: float) -> None:
    whole, (one, other) = network(), pairs(*ALL)
    nested = narrowed(dict(whole.named_parameters()), nesting_of(whole), width)
    sliced = {name: part.clone() for name, part in nested.items()}
    assert sliced["words.meaning"].shape == (WORDS.size, round(8 * width))
    inside = shares(predictor(whole)(width, {"a": one, "b": other}))
    _, related = called(whole, sliced, [one, other])
    torch.testing.assert_close(inside * 4 + 1, related)


def test_every_weight_is_trained_but_no_row_of_padding() -> None:
    whole, (one, other) = network(), pairs(*ALL)
    batch = {"a": one, "b": other, "share": torch.rand(len(ALL)), "match": torch.ones(len(ALL))}
    torch.autograd.backward(whole.criterion(whole.predict(batch), batch))
    for name, weight in whole.named_parameters():
        assert weight.grad is not None, name
        assert bool((weight.grad != 0).any()), name
    assert whole.words.meaning.grad is not None
    assert not bool(whole.words.meaning.grad[0].any())


def test_words_that_stand_in_the_same_places_start_near_each_other() -> None:
    meaning = started()["meaning"]
    place = {word: number for number, word in enumerate(WORDS.entries, 1)}

    def near(one: str, other: str) -> float:
        left, right = (meaning[place[word]] for word in (one, other))
        return float(torch.cosine_similarity(left, right, dim=0))

    assert near("pump", "motor") > max(near("pump", "replace"), near("pump", "no"))


def test_words_that_are_written_alike_start_near_each_other() -> None:
    form = torch.nn.functional.normalize(started()["form"], dim=1)
    place = {word: number for number, word in enumerate(WORDS.entries, 1)}
    same = form[place["pump"]] @ form[place["pumps"]]
    assert same > 0.5 > form[place["pump"]] @ form[place["change"]]


def test_rare_words_weigh_more_and_unknown_ones_most() -> None:
    start = started()
    place = {word: number for number, word in enumerate(WORDS.entries, 1)}
    weight = start["weight"]
    assert 0 == weight[0] < weight[place["the"]] < weight[place["hot"]] < weight[-1] == 1
    assert start["negation"].nonzero().flatten().tolist() == sorted((place["no"], place["not"]))


def test_more_channels_than_words_are_no_error() -> None:
    assert started(meaning=64)["meaning"].shape == (WORDS.size, 64)
