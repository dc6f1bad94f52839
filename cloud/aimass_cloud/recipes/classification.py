"""Judging classifiers: splits that keep the shares of classes, figures, temperature, baselines."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from aimass_cloud.models.classifier import OUTPUTS, TEMPERATURE
from aimass_cloud.models.samples import Arrays
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.task import Recipe
from aimass_shared.errors import DataError

Labels = NDArray[np.int64]
Floats = NDArray[np.float32]

LEAST = 1e-12
BINS = 10
NEIGHBOURS, ITERATIONS = 5, 200
TEMPERATURES = np.geomspace(0.2, 4.0, 61)


def stratified(labels: Labels, shares: Sequence[float], seed: int) -> list[Labels]:
    """Row numbers of parts that have these shares of every class, at least one row of each.

    Raises:
        DataError: a class has fewer rows than there are parts.
    """
    random = np.random.default_rng(seed)
    parts: list[list[Labels]] = [[] for _ in shares]
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        if len(rows) < len(shares):
            raise DataError(
                f"class {label} has {len(rows)} samples; each needs {len(shares)} at least"
            )
        for part, chosen in zip(parts, _cut(rows, shares), strict=True):
            part.append(chosen)
    return [np.sort(np.concatenate(part)) for part in parts]


def _cut(rows: Labels, shares: Sequence[float]) -> list[Labels]:
    """Rows in parts of about these shares, none of them empty."""
    counts = [max(1, round(len(rows) * share)) for share in shares[1:]]
    while sum(counts) >= len(rows):
        counts[int(np.argmax(counts))] -= 1
    ends = np.cumsum([len(rows) - sum(counts), *counts[:-1]])
    return np.split(rows, ends)


def figures(probabilities: Floats, truth: Labels) -> dict[str, float]:
    """Figures of a classifier.

    `balanced_accuracy` is the mean over classes, `macro_f1` that of F1; `log_loss` is in nats;
    `calibration_error` is how far confidence is from accuracy in the mean (ECE of 10 bins: Guo et
    al., ICML 2017).
    """
    chosen = probabilities.argmax(axis=1)
    right = chosen == truth
    recalls = [right[truth == label].mean() for label in np.unique(truth)]
    return {
        "accuracy": round(float(right.mean()), 4),
        "balanced_accuracy": round(float(np.mean(recalls)), 4),
        "macro_f1": round(macro_f1(chosen, truth), 4),
        "log_loss": round(log_loss(probabilities, truth), 4),
        "calibration_error": round(_calibration_error(probabilities.max(axis=1), right), 4),
    }


def macro_f1(chosen: Labels, truth: Labels) -> float:
    """The mean of F1 over the classes that there are."""
    found = []
    for label in np.unique(truth):
        both = ((chosen == label) & (truth == label)).sum()
        found.append(2 * both / ((chosen == label).sum() + (truth == label).sum()))
    return float(np.mean(found))


def confusion(chosen: Labels, truth: Labels, classes: int) -> list[list[int]]:
    """How many samples of each class (rows) were taken for each class (columns)."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (truth, chosen), 1)
    counts: list[list[int]] = table.tolist()
    return counts


def log_loss(probabilities: Floats, truth: Labels) -> float:
    """The mean of minus the logarithm of what the true class was given."""
    given = probabilities[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(given, LEAST)).mean())


def temperature(logits: Floats, truth: Labels) -> float:
    """What to divide logits by for the least log loss (Guo et al., ICML 2017), from 0.2 to 4.

    Where all samples are right, the least loss is that of no doubt at all. So every label counts as
    wrong with the chance that so many samples without an error leave (Platt, 1999).
    """
    doubt = 1 / (len(truth) + 2)
    losses = []
    for one in TEMPERATURES:
        shares = _softmax(logits / one)
        all_classes = -np.log(np.maximum(shares, LEAST)).mean()
        losses.append((1 - doubt) * log_loss(shares, truth) + doubt * all_classes)
    return float(TEMPERATURES[int(np.argmin(losses))])


def temperatures(plan: Recipe, model: TrainedModel) -> Floats:
    """The temperature of each width `[widths, 1]`, chosen on held-back samples."""
    part, chosen = model.samples.calibration, []
    for width, own in zip(model.info.widths, model.constants[TEMPERATURE], strict=True):
        told = outputs_of(plan, model, part, width=width)[OUTPUTS[0]]
        logits = np.log(np.maximum(told, np.finfo(np.float32).tiny)) * own
        chosen.append([temperature(logits, part.truth["label"])])
    return np.array(chosen, np.float32)


def baselines(
    train: tuple[Floats, Labels], test: tuple[Floats, Labels], seed: int
) -> dict[str, Any]:
    """Figures of the largest class, of the 5 nearest neighbours and of logistic regression.

    Args:
        train: rows `[n, F]` with their classes.
        test: the same.
        seed: of the solver.
    """
    rows, labels = train
    classes = int(labels.max()) + 1
    shares = (np.bincount(labels, minlength=classes) / len(labels)).astype(np.float32)
    centre, spread = rows.mean(axis=0), float(rows.std()) or 1.0
    scaled = [(part - centre) / spread for part, _ in (train, test)]
    return {
        "largest class": figures(np.tile(shares, (len(test[1]), 1)), test[1]),
        "5 nearest neighbours": _fitted(
            KNeighborsClassifier(NEIGHBOURS), scaled, labels=labels, truth=test[1]
        ),
        "logistic regression": _fitted(
            LogisticRegression(C=0.01, max_iter=ITERATIONS, random_state=seed),
            scaled,
            labels=labels,
            truth=test[1],
        ),
    }


def _fitted(
    learner: Any,  # noqa: ANN401  scikit-learn has no types
    scaled: Sequence[Floats],
    *,
    labels: Labels,
    truth: Labels,
) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        learner.fit(scaled[0], labels)
    return figures(learner.predict_proba(scaled[1]), truth)


def accuracy_error(outputs: Mapping[str, NDArray[Any]], truth: Arrays) -> float:
    """Share of samples with a wrong label."""
    return float((outputs["label"] != truth["label"]).mean())


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs(float(confidence[bins == one].mean() - right[bins == one].mean())) * (bins == one).sum()
        for one in np.unique(bins)
    ]
    return float(sum(gaps) / len(right))
