"""`aimass slice cuts` and `split`: any ONNX file, here, without a coordinator."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tests import graphs

from aimass_cloud.cli import main
from aimass_cloud.cli.arguments import parsed
from aimass_cloud.slicing.cuts import MOST_CUTS, MOST_TENSORS


@pytest.fixture
def resnet(tmp_path: Path) -> str:
    path = tmp_path / "resnet.onnx"
    onnx.save_model(graphs.resnet(), path)
    return str(path)


@pytest.fixture
def transformer(tmp_path: Path) -> str:
    path = tmp_path / "transformer.onnx"
    onnx.save_model(graphs.transformer(), path)
    return str(path)


def test_cuts_are_listed_for_people_and_programs(
    resnet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["slice", "cuts", resnet, "--tensors", "1"]) == 0
    shown = capsys.readouterr()
    assert "cut-relu_2-" in shown.out
    assert "[1, 8, 16, 16]" in shown.out
    assert "Conv+BatchNormalization" in shown.out
    assert "12 cuts of 24 nodes" in shown.err
    assert main(["slice", "cuts", resnet, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["cuts"]) == 28
    assert found["complete"] is True
    assert found["cuts"][0]["crossing"][0]["dtype"] == "float32"


def test_what_is_missing_is_said(transformer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slice", "cuts", transformer, "--most", "12"]) == 0
    said = capsys.readouterr().err
    assert "--size sequence=N" in said
    assert "the search ended after 12 cuts" in said
    assert main(["slice", "cuts", transformer, "--size", "sequence=7"]) == 0
    shown = capsys.readouterr()
    assert "--size" not in shown.err
    assert "│ ?" not in shown.out


def test_parts_are_written_with_their_error(
    resnet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "parts"
    arguments = ["slice", "split", resnet, "--cut", "relu_10", "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["cut"].startswith("cut-relu_10-")
    assert answer["max_abs_error"] <= 1e-5
    image = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", image=image)
    assert main([*arguments, "--inputs", str(tmp_path / "inputs.npz")]) == 0
    assert "max_abs_error" in capsys.readouterr().out
    head, tail = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in answer["files"]
    )
    between = head.run(None, {"image": image})[0]
    assert tail.run(None, {"relu_10": between})[0].shape == (1, 4)
    assert sorted(path.name for path in out.iterdir()) == ["head.onnx", "tail.onnx"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["slice", "cuts", "missing.onnx"], "[model-load-failed]"),
        (["slice", "cuts", "MODEL", "--size", "sequence"], "[invalid-setting]"),
        (["slice", "cuts", "MODEL", "--tensors", "0"], "[invalid-setting]"),
        (["slice", "cuts", "MODEL", "--most", "-1"], "[invalid-setting]"),
        (
            ["slice", "split", "MODEL", "--cut", "relu_2", "--out", "x", "--seed", "-1"],
            "[invalid-setting]",
        ),
        (["slice", "split", "MODEL", "--cut", "nothing", "--out", "x"], "[not-found]"),
        (
            ["slice", "split", "MODEL", "--cut", "relu_2", "--out", "x", "--inputs", "MODEL"],
            "[invalid-setting]",
        ),
        (
            ["slice", "split", "MODEL", "--cut", "relu_2", "--out", "x", "--tolerance", "-1"],
            "[self-test-failed]",
        ),
        (["slice", "split", "MODEL", "--cut", "relu_2", "--out", "MODEL"], "[storage]"),
    ],
)
def test_what_goes_wrong_has_a_code_and_leaves_no_files(
    arguments: list[str], said: str, resnet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([resnet if one == "MODEL" else one for one in arguments]) == 1
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.startswith("aimass: ")
    assert shown.count("\n") == 1
    assert not (Path(resnet).parent / "x").exists()
    assert not Path("x").exists()


def test_limits_that_nobody_gives_are_those_of_the_library() -> None:
    args = parsed(["slice", "cuts", "model.onnx"])
    assert (args.tensors, args.most) == (MOST_TENSORS, MOST_CUTS)


def test_a_model_may_still_be_sliced_by_its_id() -> None:
    args = parsed(["slice", "cuttings"])
    assert (args.call, args.model) == ("slice", "cuttings")
