"""The text matcher: two sentences word against word, nested in width.

A word is a row of a table: what it means (from the words around it), how it is written, and how
much it weighs. Two sentences are compared twice: by measures of what they share, worked out from
the similarity of each word with each (the wide half), and by aligning each word softly with the
other sentence and comparing it with what it found (the deep half; Parikh et al., A decomposable
attention model, EMNLP 2016). Both sentences are treated alike, so their order does not matter.
Relatedness is read from a distribution over grades (Tai et al., ACL 2015). Needs torch.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    dropout,
    embedding,
    kl_div,
    log_softmax,
)

from aimass_cloud.models.blocks import drawn
from aimass_cloud.models.network import Batch, Network, Tensors

GRADES = 5
KINDS = 3
"""Similarities of two words: equal, in meaning, in form."""
SIDE, WHOLE = 15, 6
"""Measures of one sentence against the other, and of both together."""
FAR = 1e4
TINY = 1e-6
SHARPNESS = (6.0, 6.0, 2.0)
SQUARED, MATCHED = 8.0, 0.5
"""Shares of the squared error and of the match in the loss, beside the grades'."""


class TextsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the text matcher.

    Attributes:
        meaning, form: numbers of a word for what it means and how it is written, multiples of 4.
        hidden: channels of both halves, a multiple of 4.
        drop: share of channels left out in training.
        length: words of a text that are looked at; 0 takes what the data need.
        words: entries of the vocabulary at most. buckets: rows for words that it has not.
        match_from: share of the range of the scores from which on two texts match.
        split: what parts without a file are drawn from.
        rows: of the table; the vocabulary sets it.
    """

    meaning: int = 96
    form: int = 64
    hidden: int = 64
    drop: float = 0.2
    length: int = 0
    words: int = 20_000
    buckets: int = 64
    match_from: float = 0.7
    split: int = 0
    rows: int = 0


def blank(config: TextsConfig) -> Tensors:
    """A start of nothing, of the sizes of a configuration."""
    rows = {"meaning": (config.meaning,), "form": (config.form,), "weight": (), "negation": ()}
    table = {name: torch.zeros(config.rows, *channels) for name, channels in rows.items()}
    return {**table, "low": torch.zeros(1), "span": torch.ones(1)}


def shares(logits: Tensor) -> Tensor:
    """Where relatedness lies in the range of the scores, 0 to 1, by the grades' logits `[B, n]`."""
    grades = torch.linspace(0, 1, GRADES, device=logits.device)
    return (torch.softmax(logits[:, :GRADES], dim=1) * grades).sum(dim=1)


class Side(NamedTuple):
    """One sentence of a pair.

    Attributes:
        ids: `[B, L]`, 0 after the last word. mask: 1 for a word. weight: 0 where there is none.
        meaning, form: directions `[B, L, channels]`. negation: `[B]` how much is denied.
    """

    ids: Tensor
    mask: Tensor
    weight: Tensor
    meaning: Tensor
    form: Tensor
    negation: Tensor


class Pairing(NamedTuple):
    """Each word of one sentence against each of the other, all `[B, L, L]`.

    Attributes:
        equal: 1 where they are the same. meaning, form: cosines. apart: 0 for two words, else very
            negative.
    """

    equal: Tensor
    meaning: Tensor
    form: Tensor
    apart: Tensor

    @property
    def turned(self) -> "Pairing":
        """The other sentence against this one."""
        return Pairing(*(one.transpose(1, 2) for one in self))


class Words(nn.Module):
    """The table of words; its rows are rigid, their leading channels are a narrower table."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"meaning": (1,), "form": (1,)}

    def __init__(self, start: Tensors) -> None:
        """Take `meaning` and `form` `[V, channels]`, `weight` and `negation` `[V]` to start at."""
        super().__init__()
        self.meaning, self.form = nn.Parameter(start["meaning"]), nn.Parameter(start["form"])
        self.weight = nn.Parameter(start["weight"].clamp(min=TINY).log())
        self.negation = nn.Parameter(start["negation"])

    def forward(self, ids: Tensor) -> Side:
        """A sentence of ids `[B, L]`."""
        mask = (ids > 0).to(self.weight.dtype)
        meaning, form = (
            _unit(embedding(ids, table)) * mask[..., None] for table in (self.meaning, self.form)
        )
        # One column each: a look-up in a vector exports as another operator than one in a table.
        weight, negation = (
            embedding(ids, table[:, None])[..., 0] * mask
            for table in (self.weight.exp(), self.negation)
        )
        return Side(ids, mask, weight, meaning, form, negation.sum(dim=1))


class Alignment(nn.Module):
    """Compares each word with what it is aligned with in the other sentence."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "own_meaning": (1, 2),
        "own_form": (1, 2),
        "bias": (0,),
        "joined": (1, 2),
        "joined_bias": (0,),
    }

    def __init__(self, config: TextsConfig) -> None:
        """Start at full width."""
        super().__init__()
        meaning, form, hidden = config.meaning, config.form, config.hidden
        self.drop, self.hidden = config.drop, hidden
        self.own_meaning = drawn(4, meaning, hidden, fan_in=2 * (meaning + form))
        self.own_form = drawn(4, form, hidden, fan_in=2 * (meaning + form))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.joined = drawn(4, hidden, hidden, fan_in=2 * hidden)
        self.joined_bias = nn.Parameter(torch.zeros(hidden))
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))

    def forward(self, one: Side, other: Side, pairing: Pairing) -> Tensor:
        """What the alignment says `[B, hidden]`."""
        one, other = self._dropped(one), self._dropped(other)
        meaning, form, equal = self.sharpness.unbind()
        nearness = meaning * pairing.meaning + form * pairing.form + equal * pairing.equal
        both = [
            self._compared(one, other, nearness + pairing.apart),
            self._compared(other, one, (nearness + pairing.apart).transpose(1, 2)),
        ]
        sums = [left + right for left, right in zip(*both, strict=True)]
        gaps = [(left - right).abs() for left, right in zip(*both, strict=True)]
        scale = math.sqrt(self.hidden / self.joined.shape[-1])
        parts = zip([*sums, *gaps], self.joined, strict=True)
        told = sum((dropout(part, self.drop, self.training) @ matrix for part, matrix in parts))
        return torch.relu(told * scale + self.joined_bias)

    def _dropped(self, side: Side) -> Side:
        meaning, form = (
            dropout(part, self.drop, self.training) for part in (side.meaning, side.form)
        )
        return side._replace(meaning=meaning, form=form)

    def _compared(self, one: Side, other: Side, nearness: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum and the maximum over the words of `one`, `[B, hidden]` each."""
        share = torch.softmax(nearness, dim=-1)
        told: Tensor = self.bias
        for own, seen, maps in (
            (one.meaning, share @ other.meaning, self.own_meaning),
            (one.form, share @ other.form, self.own_form),
        ):
            told = told + own @ maps[0] + seen @ maps[1]
            told = told + (own * seen) @ maps[2] * 4 + (own - seen).abs() @ maps[3]
        kept = torch.relu(told) * one.mask[..., None]
        return (kept * one.weight[..., None]).sum(dim=1) / 4, kept.amax(dim=1)


class Overlap(nn.Module):
    """Measures of what two sentences share, and a layer over them."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"maps": (1,), "bias": (0,)}

    def __init__(self, hidden: int) -> None:
        """Start at full width."""
        super().__init__()
        measures = KINDS * SIDE + WHOLE
        self.maps = drawn(measures, hidden, fan_in=measures // 4)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, one: Side, other: Side, pairing: Pairing) -> Tensor:
        """What the measures say `[B, hidden]`."""
        left, right = _found(one, pairing), _found(other, pairing.turned)
        whole = _whole(one, other, pairing)
        measures = torch.cat([left + right, (left - right).abs(), left * right, whole], dim=1)
        return torch.relu(measures @ self.maps + self.bias)


class TextMatcher(Network):
    """Whether two sentences match, and how related they are."""

    ELASTIC: ClassVar[Mapping[str, tuple[int, ...]]] = {"aligned": (0,), "shared": (0,)}
    KEPT_FLOAT: ClassVar[tuple[str, ...]] = ("overlap.", "aligned", "shared")

    low: Tensor
    span: Tensor

    def __init__(self, config: TextsConfig, start: Tensors) -> None:
        """Take the table's start (see `Words`), and `low` and `span` of the scores."""
        super().__init__()
        self.words = Words(start)
        self.alignment = Alignment(config)
        self.overlap = Overlap(config.hidden)
        self.hidden, self.drop = config.hidden, config.drop
        self.aligned = drawn(config.hidden, GRADES + 1, fan_in=2 * config.hidden)
        self.shared = drawn(config.hidden, GRADES + 1, fan_in=2 * config.hidden)
        self.bias = nn.Parameter(torch.zeros(GRADES + 1))
        self.register_buffer("low", start["low"])
        self.register_buffer("span", start["span"])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Probability of a match and relatedness `[B]`, of sentences `[B, L]` as ids."""
        told = self._told(*inputs)
        return torch.sigmoid(told[:, GRADES]), shares(told) * self.span + self.low

    def predict(self, batch: Batch) -> Tensor:
        """Logits `[B, grades + 1]`, the last one of the match; no words are lost."""
        one, other = batch["a"], batch["b"]
        longest = int(torch.maximum((one > 0).sum(dim=1).max(), (other > 0).sum(dim=1).max()))
        return self._told(one[:, : max(3, longest)], other[:, : max(3, longest)])

    def criterion(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Distance from the distribution over grades, the score and the match."""
        said = log_softmax(prediction[:, :GRADES], dim=1)
        score, match = batch["share"], batch["match"]
        grades = torch.linspace(0, 1, GRADES, device=score.device)
        near = (1 - (score[:, None] - grades).abs() * (GRADES - 1)).clamp(min=0)
        missed = (shares(prediction) - score).square().mean()
        matched = binary_cross_entropy_with_logits(prediction[:, GRADES], match)
        return kl_div(said, near, reduction="batchmean") + SQUARED * missed + MATCHED * matched

    def imitation(self, prediction: Tensor, teacher: Tensor) -> Tensor:
        """Distance between the distributions over grades."""
        said, taught = (log_softmax(logits[:, :GRADES], dim=1) for logits in (prediction, teacher))
        return kl_div(said, taught, reduction="batchmean", log_target=True)

    def _told(self, one_ids: Tensor, other_ids: Tensor) -> Tensor:
        one, other = self.words(one_ids), self.words(other_ids)
        pairing = _paired(one, other)
        scale = math.sqrt(self.hidden / self.aligned.shape[0])
        logits: Tensor = self.bias
        for told, maps in (
            (self.alignment(one, other, pairing), self.aligned),
            (self.overlap(one, other, pairing), self.shared),
        ):
            logits = logits + dropout(told, self.drop, self.training) @ (maps * scale)
        return logits


def _unit(vectors: Tensor) -> Tensor:
    return vectors * torch.rsqrt(vectors.square().sum(dim=-1, keepdim=True) + TINY)


def _paired(one: Side, other: Side) -> Pairing:
    words = one.mask[:, :, None] * other.mask[:, None, :]
    same = (one.ids[:, :, None] == other.ids[:, None, :]).to(words.dtype) * words
    meaning = one.meaning @ other.meaning.transpose(1, 2)
    form = one.form @ other.form.transpose(1, 2)
    return Pairing(same, meaning, form, (words - 1) * FAR)


def _found(side: Side, pairing: Pairing) -> Tensor:
    """How much of a sentence is found in the other one `[B, SIDE]`."""
    mask, weight = side.mask, side.weight
    count, total = mask.sum(dim=1) + TINY, weight.sum(dim=1) + TINY
    equal = pairing.equal.amax(dim=2)
    lost = mask - equal
    told = [
        (equal * mask).sum(dim=1) / count,
        (equal * weight).sum(dim=1) / total,
        (lost * weight).sum(dim=1) / 2,
        lost.sum(dim=1) / 6,
        (lost * weight).amax(dim=1),
        count / 16,
    ]
    for nearness in (pairing.meaning, pairing.form, (pairing.meaning + pairing.form) / 2):
        best = (torch.maximum(pairing.equal, nearness) + pairing.apart).amax(dim=2)
        best = best.clamp(min=-1) * mask
        told += [
            (best * weight).sum(dim=1) / total,
            best.sum(dim=1) / count,
            ((1 - best) * weight).sum(dim=1) / 2,
        ]
    return torch.stack(told, dim=1)


def _whole(one: Side, other: Side, pairing: Pairing) -> Tensor:
    """Measures of both sentences together `[B, WHOLE]`: order, sums of words, negation."""
    pairs = pairing.equal[:, :-1, :-1] * pairing.equal[:, 1:, 1:]
    triples = pairs[:, :-1, :-1] * pairing.equal[:, 2:, 2:]
    shorter = torch.minimum(one.mask.sum(dim=1), other.mask.sum(dim=1)) + TINY
    told = [
        pairs.amax(dim=2).sum(dim=1) / shorter,
        triples.amax(dim=2).sum(dim=1) / shorter,
        (_summed(one, one.meaning) * _summed(other, other.meaning)).sum(dim=1),
        (_summed(one, one.form) * _summed(other, other.form)).sum(dim=1),
        (one.negation - other.negation).abs(),
        one.negation + other.negation,
    ]
    return torch.stack(told, dim=1)


def _summed(side: Side, vectors: Tensor) -> Tensor:
    return _unit((vectors * side.weight[..., None]).sum(dim=1))
