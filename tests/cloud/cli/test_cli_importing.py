"""`aimass slice import`: what is wrong with the files is said before anything is sent."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from tests import graphs

from aimass_cloud.cli import main
from aimass_cloud.cli.importing import _labels, _name_of
from aimass_shared.errors import InvalidSettingError

NOWHERE = ["--url", "http://127.0.0.1:1", "--key", "k"]


def typed(*words: str) -> int:
    return main(["slice", "import", *words, *NOWHERE])


def test_files_that_cannot_be_sent_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, beside = tmp_path / "other.onnx", tmp_path / "beside.onnx"
    other.write_bytes(b"nothing")
    graphs.with_files(graphs.mobilenet(), beside)
    (tmp_path / "weights.bin").unlink()
    for file, said in (
        (tmp_path / "none.onnx", "No such file or directory [invalid-setting]"),
        (other, "is no ONNX model"),
        (beside, "weights.bin is missing: weights of the model are in it [model-load-failed]"),
    ):
        assert typed(str(file)) == 1
        assert said in capsys.readouterr().err


def test_a_coordinator_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(graphs.mobilenet(), tmp_path / "m.onnx")
    np.savez(tmp_path / "s.npz", image=np.zeros(1))
    assert typed(str(tmp_path / "m.onnx"), "--samples", str(tmp_path / "s.npz")) == 1
    assert "[cloud-unavailable]" in capsys.readouterr().err
    assert typed(str(tmp_path / "m.onnx"), "--samples", str(tmp_path / "none.npz")) == 1
    assert "none.npz: No such file or directory [invalid-setting]" in capsys.readouterr().err
    assert typed(str(tmp_path / "m.onnx"), "--size", "n=0") == 1
    assert "write NAME=N" in capsys.readouterr().err


def test_labels_are_typed_or_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("ok\n\ndent, deep\n")
    assert _labels("ok, dent,,hole") == ["ok", "dent", "hole"]
    assert _labels(f"@{tmp_path / 'labels.txt'}") == ["ok", "dent, deep"]
    with pytest.raises(InvalidSettingError, match="none"):
        _labels(f"@{tmp_path / 'none.txt'}")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("resnet50-v2.onnx", "resnet50-v2"),
        ("My model (1).onnx", "My-model-1"),
        ("äö.onnx", "model"),
    ],
)
def test_a_file_names_its_model(file: str, name: str) -> None:
    assert _name_of(Path(file)) == name
