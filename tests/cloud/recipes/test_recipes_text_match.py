"""The recipe "text-match" from pairs to slices: what ships, labels, ranges, texts on the way in."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from tests.engines import engine_bytes

from aimass_cloud.models.trained import TrainedModel
from aimass_cloud.recipes import work_orders
from aimass_cloud.recipes.assembly import outputs_of
from aimass_cloud.recipes.run import Optimizer, Schedule
from aimass_cloud.recipes.text_match import RECIPE, SIZES, TextTask
from aimass_cloud.slicing import make_slices
from aimass_cloud.training import train
from aimass_shared.errors import DataError, InvalidSettingError
from aimass_shared.slices import SliceSpec
from aimass_shared.vocabulary import unpack

RUN = msgspec.structs.replace(
    RECIPE.run,
    size="tiny",
    steps=120,
    check=60,
    optimizer=Optimizer(rate=1e-2),
    schedule=Schedule(warm_up=10),
    average=0.9,
    widths=(1.0, 0.5),
)
PLAIN = {
    *("Gather", "Equal", "Greater", "Cast", "Unsqueeze", "Squeeze", "Transpose", "Slice"),
    *("MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "Abs", "Max", "Min", "Pow", "Sqrt"),
    *("Reciprocal", "Exp", "Relu", "Softmax", "Sigmoid", "ReduceSum", "ReduceMax", "Concat"),
    *("Clip", "Shape", "Expand", "Reshape"),
}


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return train("text-match", RUN)


def rows(path: Path, *, labels: bool = False) -> str:
    random = np.random.default_rng(0)
    nouns, lines = ["pump", "motor", "valve", "fan", "belt", "gear"], ["a\tb\tscore"]
    for _ in range(200):
        one, other = random.choice(nouns, 3), random.choice(nouns, 3)
        share = len(set(one) & set(other)) / 3
        score = int(share > 0.4) if labels else 10 * share
        lines.append(f"{' '.join(one)}\t{' '.join(other)}\t{score}")
    path.write_text("\n".join(lines))
    return str(path)


def test_pairs_of_work_orders_ship_and_share_no_text_between_parts() -> None:
    parts = work_orders.load()
    assert [len(part) for part in parts] == [3000, 357, 600]
    texts = [{*part.a, *part.b} for part in parts]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        # Different orders may well be written alike.
        assert len(texts[one] & texts[other]) < 0.05 * len(texts[other])
    assert all(0 <= part.score.min() < part.score.max() <= 1 for part in parts)


def test_work_orders_agree_as_far_as_their_types_do() -> None:
    told = work_orders.agreement([["A/x/1", "B/y"], ["A/x/2", "B/y"], ["C/z"], ["B/y", "A/x/1"]])
    assert told[0].tolist() == [1.0, 0.75, 0.0, 1.0]
    np.testing.assert_array_equal(told, told.T)


def test_the_model_is_better_than_overlap_on_texts_that_it_has_not_seen(
    model: TrainedModel,
) -> None:
    best = max(one["pearson"] for one in model.metrics["baselines"].values())
    for width in ("1.00", "0.50"):
        assert model.metrics["by_width"][width]["pearson"] > best + 0.05
    assert model.metrics["accuracy"] > 0.7


def test_the_vocabulary_travels_and_has_no_word_of_the_test_alone(model: TrainedModel) -> None:
    vocabulary = unpack(model.assets["vocabulary"])
    seen = {word for text in work_orders.load().train.a for word in text.lower().split()}
    assert "replace" in vocabulary.entries
    assert seen & set(vocabulary.entries)
    assert vocabulary.size == model.info.config["rows"] == len(model.weights["words.meaning"])
    ids = vocabulary.encode(work_orders.load().test.a[:5])
    np.testing.assert_array_equal(ids, model.samples.test.inputs["a"][:5])


def test_a_saved_model_is_the_same(model: TrainedModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = TrainedModel.load(tmp_path)
    for width in RUN.widths:
        before, after = (
            outputs_of(RECIPE, one, one.samples.calibration, width=width) for one in (model, loaded)
        )
        np.testing.assert_array_equal(before["relatedness"], after["relatedness"])


def test_slices_hold_plain_operators_that_tensorrt_takes(
    model: TrainedModel, tmp_path: Path
) -> None:
    specs = (SliceSpec(0.5, "fp32"), SliceSpec(0.5, "int8-trt"))
    full, small = make_slices(model, tmp_path, specs=specs)
    assert [role for role, _ in full.files] == ["model", "selftest", "vocabulary"]
    graph = onnx.load(dict(full.files)["model"]).graph
    assert {node.op_type for node in graph.node} <= PLAIN
    assert [value.name for value in graph.input] == ["a", "b"]
    assert small.cost.val_error < full.cost.val_error + 0.02
    for made in (full, small):
        assert engine_bytes(Path(dict(made.files)["model"])) > 0


def test_scores_of_any_range_come_back_in_it(tmp_path: Path) -> None:
    run = msgspec.structs.replace(RUN, data=rows(tmp_path / "x.tsv"), steps=60)
    trained = train("text-match", run)
    assert trained.metrics["pearson"] > 0.5
    related = outputs_of(RECIPE, trained, trained.samples.test, width=1.0)["relatedness"]
    assert 0 <= related.min() < 5 < related.max() <= 10


def test_labels_are_matches(tmp_path: Path) -> None:
    run = msgspec.structs.replace(RUN, data=rows(tmp_path / "x.tsv", labels=True))
    task = RECIPE.open(run)
    part = task.samples().test
    np.testing.assert_array_equal(part.truth["match"], part.truth["score"] == 1)


def test_an_option_is_taken_or_refused() -> None:
    task = RECIPE.open(msgspec.structs.replace(RUN, options={"length": 5, "words": 50}))
    assert isinstance(task, TextTask)
    assert (task.config.length, task.config.rows) == (5, 1 + 50 + 64)
    assert task.samples().test.inputs["a"].shape == (600, 5)
    with pytest.raises(InvalidSettingError, match="match_from"):
        RECIPE.open(msgspec.structs.replace(RUN, options={"matching": 1}))
    with pytest.raises(DataError, match="no file"):
        RECIPE.open(msgspec.structs.replace(RUN, data="/nowhere/pairs.tsv"))


def test_the_largest_size_has_a_hundred_million_parameters(model: TrainedModel) -> None:
    config = msgspec.structs.replace(SIZES["xl"], rows=100)
    info = msgspec.structs.replace(model.info, config=msgspec.to_builtins(config))
    network = RECIPE.module(info, model.constants)
    assert sum(one.numel() for one in network.parameters()) > 1e8
    assert RECIPE.settle(model) == {}
