"""Sessions with a vocabulary around them, over real ONNX files of three tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.tiny_models import (
    ALL,
    CLASSIFIER,
    MATCHER,
    NOTHING,
    RANKER,
    Tiny,
    assert_same,
    name_of,
    texts,
)

from aimass_edge.config import BoardSettings
from aimass_edge.runtime import (
    CodedSession,
    Session,
    coder_beside,
    describe,
    open_session,
    windows_of,
)
from aimass_shared.errors import BadTensorError, ModelError, ModelLoadFailedError
from aimass_shared.manifest import Role, TensorSpec
from aimass_shared.vocabulary import Vocabulary, pack

BOARD = BoardSettings()


def opened(tiny: Tiny, folder: Path, changed: Mapping[Role, bytes] = NOTHING) -> Session:
    path = tiny.write(folder, changed) / "model.onnx"
    coder = coder_beside(path, tiny.contract)
    return CodedSession(open_session(path, BOARD), tiny.contract, coder)


@pytest.mark.parametrize("tiny", ALL, ids=name_of)
def test_it_takes_and_gives_what_the_contract_says(tmp_path: Path, tiny: Tiny) -> None:
    session = opened(tiny, tmp_path)
    assert session.inputs == tiny.contract.inputs
    assert {spec.datatype for spec in session.outputs} == {
        s.datatype for s in tiny.contract.outputs
    }
    assert_same(session.run(tiny.asked), tiny.answer)
    assert (session.provider, session.waits) == ("CPUExecutionProvider", False)
    session.close()


def test_texts_are_described_like_all_tensors(tmp_path: Path) -> None:
    assert [describe(spec) for spec in opened(RANKER, tmp_path).inputs] == ["history BYTES[?]"]


@pytest.mark.parametrize(
    ("feeds", "told"),
    [
        ({"history": np.zeros((1, 3), np.int64)}, "`history` is INT64"),
        ({"history": texts()}, "empty batch"),
        ({}, "not those of the model"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, feeds: dict[str, Any], told: str) -> None:
    with pytest.raises(BadTensorError, match=told):
        opened(RANKER, tmp_path).run(feeds)


def test_a_number_beyond_the_vocabulary_is_the_fault_of_the_model(tmp_path: Path) -> None:
    small = pack(Vocabulary("items", ("A-1",), length=3))
    with pytest.raises(ModelError, match="its vocabulary has those from 0 to 1"):
        opened(RANKER, tmp_path, {"vocabulary": small}).run({"history": texts("A-1 A-1")})


def test_a_vocabulary_that_is_not_there_or_none_is_refused(tmp_path: Path) -> None:
    path = MATCHER.write(tmp_path) / "model.onnx"
    path.with_name("vocabulary.json").write_bytes(b"[]")
    with pytest.raises(ModelLoadFailedError, match=r"vocabulary\.json cannot be used"):
        coder_beside(path, MATCHER.contract)
    path.with_name("vocabulary.json").unlink()
    with pytest.raises(ModelLoadFailedError, match=r"vocabulary\.json cannot be read"):
        coder_beside(path, MATCHER.contract)


def test_a_vocabulary_is_read_only_where_it_is_needed(tmp_path: Path) -> None:
    path = CLASSIFIER.write(tmp_path) / "model.onnx"
    path.with_name("vocabulary.json").write_bytes(b"no vocabulary")
    assert coder_beside(path, CLASSIFIER.contract).inputs == CLASSIFIER.contract.inputs


def test_the_batch_is_that_of_the_first_input_that_has_one() -> None:
    specs = (TensorSpec("scale", "FP32", ()), TensorSpec("text", "BYTES", (-1,)))
    feeds = {"scale": np.float32(2.0) * np.ones(()), "text": texts("a", "b")}
    assert windows_of(specs, feeds) == 2
    assert windows_of(specs[:1], feeds) == 1


def test_a_contract_reads_back() -> None:
    for tiny in ALL:
        raw = msgspec.json.encode(tiny.contract)
        assert msgspec.json.decode(raw, type=type(tiny.contract)) == tiny.contract
