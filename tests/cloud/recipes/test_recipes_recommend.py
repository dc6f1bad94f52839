"""The recipe "recommend" from histories to slices."""

from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.engines import engine_bytes

from aimass_cloud.datasets.interactions import Interactions, synthetic
from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes.histories import Epochs, split
from aimass_cloud.recipes.recommend import RECIPE, RecommendTask, scoring
from aimass_cloud.recipes.run import RunSettings
from aimass_cloud.recipes.toplists import TOP, figures, popularity, top
from aimass_cloud.slicing import make_slices
from aimass_cloud.slicing.costs import Runner
from aimass_cloud.training import train
from aimass_shared.errors import DataError, InvalidSettingError
from aimass_shared.slices import SliceSpec
from aimass_shared.vocabulary import unpack

OPTIONS: dict[str, Any] = {"length": 12, "neighbours": 16, "recent": 4, "negatives": 64, "edges": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """A short run on a small shop, from a file."""
    data = synthetic(3, users=300, items=120)
    path = tmp_path_factory.mktemp("shop") / "shop.txt"
    rows = [
        f"u{user} {data.items[item - 1]}"
        for user, history in enumerate(data.histories)
        for item in history
    ]
    path.write_text("\n".join(rows))
    return msgspec.structs.replace(
        RECIPE.run, data=str(path), size="tiny", steps=240, check=40, options=OPTIONS
    )


@pytest.fixture(scope="module")
def model(run: RunSettings) -> TrainedModel:
    """What the run gives."""
    return train("recommend", run)


def test_it_ranks_better_than_popularity_and_neighbourhoods(model: TrainedModel) -> None:
    found, rivals = model.metrics["all_users"], model.metrics["baselines"]
    for name in ("hr_at_10", "ndcg_at_10"):
        assert found[name] > rivals["item_knn"][name] > rivals["popularity"][name]


def test_slices_rank_like_the_model_and_speak_names(model: TrainedModel, tmp_path: Path) -> None:
    specs = [SliceSpec(1.0, "fp32"), SliceSpec(0.25, "int8-trt")]
    whole, small = make_slices(model, tmp_path, specs=specs)
    assert abs(whole.cost.val_error - (1 - model.metrics["ndcg_at_10"])) < 1e-6
    assert small.cost.val_error < 1 - model.metrics["baselines"]["popularity"]["ndcg_at_10"]
    files = {role: Path(path) for role, path in whole.files}
    for made in (whole, small):
        assert engine_bytes(Path(dict(made.files)["model"])) > 0
    vocabulary = unpack(files["vocabulary"].read_bytes())
    history = vocabulary.encode([f"{vocabulary.entries[0]} {vocabulary.entries[5]}", "unknown"])
    import onnx  # noqa: PLC0415

    outputs = Runner(onnx.load(files["model"])).run({"history": history})
    names = vocabulary.decode(outputs["items"])
    assert names.shape == outputs["scores"].shape == (2, TOP)
    assert not {vocabulary.entries[0], vocabulary.entries[5], ""} & set(names[0])


def test_the_last_item_is_the_test_and_never_trained_on() -> None:
    data = synthetic(5, users=60, items=50)
    parts = split(data, length=8)
    judged = [history for history in data.histories if len(history) >= 3]
    for row, history in enumerate(judged):
        assert parts.train[row].tolist() == history[:-2].tolist()
        assert (parts.held_back.item[row], parts.test.item[row]) == tuple(history[-2:])
        assert parts.test.history[row][-1] == history[-2]


def test_batches_are_a_function_of_their_number_and_ranks_share_them() -> None:
    data = synthetic(5, users=200, items=50)
    parts = split(data, length=8)
    groups = Epochs(parts.train, parts.frequency(data.size), length=8, seed=1)
    first = groups.drawing(batch=16, negatives=7)
    count = len(first.starts)
    taught = sorted(tuple(one[-9:].tolist()) for one in parts.train if len(one) > 1)
    taken = list(islice(first.batches(0), 2 * count))
    for epoch in (taken[:count], taken[count:]):
        rows = [tuple(row[row > 0].tolist()) for batch in epoch for row in batch["sequence"]]
        assert sorted(rows) == taught
    for number in (5, count + 2):
        later = next(first.batches(number))
        assert all((later[name] == taken[number][name]).all() for name in later)
    later = next(first.batches(5))
    shares = [
        next(groups.drawing(batch=16, negatives=7, rank=rank, world=2).batches(5))["sequence"]
        for rank in (0, 1)
    ]
    together = sorted(row.tolist() for share in shares for row in share)
    assert together == sorted(row.tolist() for row in later["sequence"])


def test_figures_and_lists_are_those_of_the_definitions() -> None:
    items = np.arange(1, 21).reshape(2, 10)
    assert figures(items, np.array([3, 5])) == {
        "hr_at_10": 0.5,
        "ndcg_at_10": pytest.approx(0.5 / np.log2(4)),
    }
    found = top(popularity(np.arange(30.0)), np.array([[0, 29], [28, 5]]))
    assert found.tolist() == [list(range(28, 18, -1)), [29, *range(27, 18, -1)]]


def test_scores_of_a_model_lead_to_its_lists(model: TrainedModel) -> None:
    test = model.samples.test
    found = figures(top(scoring(model, 0.5), test.inputs["history"]), test.truth["item"])
    assert found == pytest.approx(model.metrics["by_width"]["0.50"])


def test_too_little_is_refused() -> None:
    lonely = Interactions(tuple("abcdefghijkl"), (np.array([1, 2, 3]),))
    with pytest.raises(DataError, match="at least 20"):
        RecommendTask(lonely, RECIPE.sizes["tiny"], seed=0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="different items"):
        RecommendTask(Interactions(("a",), ()), RECIPE.sizes["tiny"], seed=0)  # type: ignore[arg-type]
    with pytest.raises(InvalidSettingError, match="lenght"):
        RECIPE.open(msgspec.structs.replace(RECIPE.run, options={"lenght": 3}))
