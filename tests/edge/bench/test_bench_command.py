"""`aimass-edge bench` as a command, on real models in real child processes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.edge.bench.conftest import Bench, Offer, brief
from tests.tiny_models import CLASSIFIER, MATCHER, RANKER

from aimass_edge.bench.measure import Task
from aimass_edge.bench.nodes import by_operator, nodes_of
from aimass_edge.bench.running import _ask
from aimass_edge.config import BoardSettings
from aimass_shared.claims import claimed
from aimass_shared.errors import ModelError
from aimass_shared.slices import SliceSpec

FIGURES = ("p50_ms", "p99_ms", "thread_ms", "per_s", "load_s", "rss_mib", "model_mib")
WATTS = 10.0
SIMULATED = '[board]\nname = "pi"\nsimulate = true\ncpu_time_factor = 50.0\n'


def test_an_installed_slice_is_measured_with_its_energy(
    tmp_path: Path, install: Offer, jetson: Path
) -> None:
    assert jetson.is_dir()
    install()
    words = [*brief(tmp_path), "--turns", "2", "--json"]
    command = [sys.executable, "-m", "aimass_edge", "bench", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    one, eight = document["measured"]
    assert (one["batch"], eight["batch"]) == (1, 8)
    assert (one["model"], one["release"], one["slice"]) == ("surface", "r1", "w1.00-fp32")
    assert (one["board"], one["provider"]) == ("x86-gateway", "CPUExecutionProvider")
    assert one["runtime"].startswith("onnxruntime ")
    assert all(row[name] > 0 for row in (one, eight) for name in FIGURES)
    assert one["p50_ms"] <= one["p99_ms"]
    assert one["runs"] >= 10
    assert one["temperature_c"] == 48.0
    # Power is given, so energy follows from the time: the runs' own at least.
    assert WATTS * one["p50_ms"] * 0.9 <= one["energy_mj"] <= WATTS * 1e3 * 10 / one["runs"]
    assert document["report"] == "the device is not enrolled"
    assert "turn 2/2, 1/1: r1/w1.00-fp32" in done.stderr


@pytest.mark.parametrize("tiny", [MATCHER, RANKER], ids=["match", "rank"])
def test_texts_go_through_the_vocabulary_as_in_production(
    install: Offer, bench: Bench, tiny: object
) -> None:
    install(tiny=tiny)
    done = bench("--json", "--nodes")
    assert done.code == 0, done.err + done.out
    assert len(done.document["measured"]) == 2
    assert done.document["nodes"] == {"r1/w1.00-fp32": []}


def test_a_simulated_board_is_measured_as_what_it_stands_for(
    tmp_path: Path, install: Offer, bench: Bench, jetson: Path
) -> None:
    assert jetson.is_dir()
    install()
    config = tmp_path / "site.toml"
    config.write_text(SIMULATED)
    row = bench("--json", "--config", str(config), "--batch", "1").document["measured"][0]
    assert row["board"] == "pi (simulated)"
    assert row["p50_ms"] > 20 * row["thread_ms"]
    assert (row["energy_mj"], row["temperature_c"]) == (None, None)


def test_any_file_is_measured_with_its_nodes(tmp_path: Path, bench: Bench) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(CLASSIFIER.contents["model"])
    done = bench(str(path), "--nodes", "--batch", "4")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("x86-gateway, onnxruntime ")
    assert lines[2].split()[:5] == ["slice", "batch", "p50", "ms", "p99"]
    assert [line.split()[:2] for line in lines[3:5]] == [["mine.onnx", "1"], ["mine.onnx", "4"]]
    assert any(line.startswith("operator") for line in lines)
    assert not (tmp_path / "edge").exists(), "nothing is written for a file"


def test_a_slice_that_does_not_run_costs_only_itself(
    tmp_path: Path, install: Offer, bench: Bench
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    done = bench(str(path), "--json")
    assert done.code == 1
    assert done.document["measured"] == []
    assert "[model-load-failed]" in done.document["failed"]["bad.onnx"]
    assert bench(str(tmp_path / "none.onnx")).err.endswith("[model-load-failed]\n")
    assert bench().err.endswith("[no-active-model]\n")
    install()
    with claimed(tmp_path / "edge" / "bench.lock", otherwise=""):
        assert bench().err.endswith("[conflict]\n")


def test_what_hangs_or_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(CLASSIFIER.contents["model"])
    answer = _ask(Task(str(path), BoardSettings(), seconds=60, deadline_s=0.5))
    assert (answer.ok, answer.code) == (False, "deadline-exceeded")
    monkeypatch.setattr("aimass_edge.bench.running.sys.executable", shutil.which("false"))
    answer = _ask(Task(str(path), BoardSettings()))
    assert (answer.ok, answer.code) == (False, "model")
    assert answer.why == "the process ended with status 1: silence"


def test_all_needs_an_enrolled_device(install: Offer, bench: Bench) -> None:
    install(SliceSpec(1.0, "fp32"), SliceSpec(0.5, "fp32"))
    assert bench("--all").err.endswith("[not-found]\n")
    assert bench("--report").err.endswith("[not-found]\n")


def test_nodes_are_medians_and_operators_their_sums() -> None:
    def event(name: str, operator: str, microseconds: int) -> dict[str, object]:
        arguments = {"op_name": operator, "provider": "CPU", "other": 1}
        return {"cat": "Node", "name": name, "dur": microseconds, "args": arguments}

    events = [
        {"cat": "Session", "name": "model_run", "dur": 10_000, "args": {}},
        event("a_fence_before", "Conv", 9000),
        event("a_kernel_time", "Conv", 1000),
        event("a_kernel_time", "Conv", 3000),
        event("a_kernel_time", "Conv", 90_000),
        event("b_kernel_time", "Relu", 500),
        event("c_kernel_time", "Conv", 500),
    ]
    nodes = nodes_of(json.dumps(events).encode(), 2.0)
    assert [(node.node, node.ms) for node in nodes] == [("a", 6.0), ("b", 1.0), ("c", 1.0)]
    conv, relu = by_operator(nodes)
    assert (conv.operator, conv.nodes, conv.ms, conv.share) == ("Conv", 2, 7.0, 0.875)
    assert relu.operator == "Relu"
    with pytest.raises(ModelError):
        nodes_of(b"{}")
