"""Installs and self-tests of slices that take pictures and texts: vectors of any type."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.tiny_models import ALL, CLASSIFIER, MATCHER, RANKER, Tiny, archive, name_of

from aimass_edge.config import BoardSettings
from aimass_edge.update.prove import prove
from aimass_edge.update.selftest import compare, relative_error, run
from aimass_edge.update.slots import Slots, bundle_of
from aimass_shared.errors import (
    BadTensorError,
    ModelLoadFailedError,
    SelfTestFailedError,
    UnfitReleaseError,
)
from aimass_shared.manifest import Role, encode
from aimass_shared.messages import ReleaseRef
from aimass_shared.slices import Board
from aimass_shared.trust import check_fit
from aimass_shared.vocabulary import pack, unpack

BOARD = BoardSettings()
PutParts = Callable[[Slots, dict[Role, bytes]], dict[Role, Path]]


def changed(tiny: Tiny, **arrays: Any) -> bytes:  # noqa: ANN401  # arrays of any type
    """Its vectors with others in their place; `in_history` is `in.history`."""
    with np.load(io.BytesIO(tiny.contents["selftest"])) as file:
        vectors = dict(file)
    return archive(vectors | {n.replace("_", ".", 1): a for n, a in arrays.items()})


@pytest.mark.parametrize("tiny", ALL, ids=name_of)
async def test_a_slice_of_any_task_proves_itself(tmp_path: Path, tiny: Tiny) -> None:
    outcome = await prove(tiny.install(tmp_path), BOARD, 60)
    assert outcome.ok
    assert outcome.error < 1e-5


@pytest.mark.parametrize("tiny", ALL, ids=name_of)
def test_a_model_that_answers_otherwise_does_not(tmp_path: Path, tiny: Tiny) -> None:
    folder = tiny.install(tmp_path)
    (folder / "model.onnx").write_bytes(tiny.broken)
    with pytest.raises(SelfTestFailedError, match=r"output (label|probability|match|item)"):
        run(folder, BOARD)


@pytest.mark.parametrize("tiny", [MATCHER, RANKER], ids=name_of)
def test_texts_in_the_vectors_prove_the_vocabulary_too(tmp_path: Path, tiny: Tiny) -> None:
    texts = {f"in_{name}": array.astype(str) for name, array in tiny.asked.items()}
    folder = tiny.install(tmp_path)
    (folder / "selftest.npz").write_bytes(changed(tiny, **texts))
    assert run(folder, BOARD).ok
    other = msgspec.structs.replace(unpack(tiny.contents["vocabulary"]), entries=tuple("vwxyz"))
    (folder / "vocabulary.json").write_bytes(pack(other))
    with pytest.raises(SelfTestFailedError):
        run(folder, BOARD)


def test_numbers_in_the_place_of_texts_are_compared_with_numbers(tmp_path: Path) -> None:
    folder = RANKER.install(tmp_path)
    (folder / "selftest.npz").write_bytes(changed(RANKER, out_item=np.array([[1, 4], [2, 3]])))
    assert run(folder, BOARD).ok
    (folder / "selftest.npz").write_bytes(changed(RANKER, out_item=np.array([[1, 4], [2, 4]])))
    with pytest.raises(SelfTestFailedError, match="output item is not what is expected"):
        run(folder, BOARD)


def test_texts_where_the_model_takes_numbers_are_refused(tmp_path: Path) -> None:
    folder = CLASSIFIER.install(tmp_path)
    (folder / "selftest.npz").write_bytes(changed(CLASSIFIER, in_image=np.array(["a"])))
    with pytest.raises(BadTensorError, match="`image` is BYTES"):
        run(folder, BOARD)


def test_a_vocabulary_that_is_none_is_a_model_that_does_not_load(tmp_path: Path) -> None:
    folder = MATCHER.install(tmp_path)
    (folder / "vocabulary.json").write_bytes(b"{}")
    with pytest.raises(ModelLoadFailedError, match=r"vocabulary\.json cannot be used"):
        run(folder, BOARD)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([1.0, 2.5]), np.array([1, 2])),
        (np.array([True]), np.array([False])),
        (np.array(["a", "b"], object), np.array(["a", "c"])),
        (np.array([1, 2]), np.array(["1", "2"])),
        (np.array(["a"], object), np.array([1.0])),
        (np.array([[1]]), np.array([1])),
    ],
)
def test_what_is_no_float_must_be_equal(found: Any, expected: Any) -> None:  # noqa: ANN401  # arrays
    assert relative_error(found, expected) == np.inf
    with pytest.raises(SelfTestFailedError, match="another shape, not finite, or not equal"):
        compare({"y": found}, {"y": expected}, 1e9)
    assert relative_error(expected, expected) == 0.0


@pytest.mark.parametrize("tiny", ALL, ids=name_of)
def test_every_file_of_a_slice_is_installed(
    tmp_path: Path, tiny: Tiny, put_parts: PutParts
) -> None:
    slots = Slots(tmp_path / "models")
    bundle = bundle_of(ReleaseRef("r1", "p", "w1.00-fp32"), encode(tiny.manifest("r1")))
    installed = slots.install(bundle, put_parts(slots, tiny.contents))
    assert installed.file("vocabulary").is_file() == ("vocabulary" in tiny.contents)
    assert run(installed.directory, BOARD).ok
    if "vocabulary" in tiny.contents:
        installed.file("vocabulary").write_bytes(b"damaged")
        assert slots.find(bundle.digest) is None


def test_a_slice_without_its_vocabulary_is_not_taken() -> None:
    whole = RANKER.manifest("r1")
    board = Board("any", memory_mib=10, cpu_time_factor=1, window_budget_ms=10)
    assert check_fit(whole, "w1.00-fp32", board, sensors=None) == whole.slices[0]
    assert check_fit(whole, "w1.00-fp32", board, sensors=("A",)) == whole.slices[0]
    files = tuple(ref for ref in whole.slices[0].files if ref.role != "vocabulary")
    bare = RANKER.manifest("r1", msgspec.structs.replace(whole.slices[0], files=files))
    with pytest.raises(UnfitReleaseError, match="no vocabulary file"):
        check_fit(bare, "w1.00-fp32", board, sensors=None)
