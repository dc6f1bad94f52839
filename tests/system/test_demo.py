"""`aimass demo` as a person runs it: to its end, interrupted, killed; nothing is ever left."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

WHOLE_S = 420.0
CHAPTER_S = 180.0
GONE_S = 10.0
Json = dict[str, Any]


class Demo:
    """A demo that runs, in a process group and with a temporary directory of its own."""

    def __init__(self, folder: Path, *options: str, keep: bool = True) -> None:
        self.root, self.temporary = folder / "run", folder / "tmp"
        self.temporary.mkdir()
        self._errors = folder / "stderr"
        command = [sys.executable, "-m", "aimass_cloud", "demo", *options]
        command += ["--keep", str(self.root)] if keep else []
        environ = os.environ | {"TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environ,
                start_new_session=True,
            )

    @property
    def words(self) -> str:
        return self._errors.read_text(errors="replace")

    def until_it_says(self, text: str, seconds: float = CHAPTER_S) -> None:
        end = time.monotonic() + seconds
        while text not in self.words:
            assert self.process.poll() is None, f"it ended before {text!r}:\n{self.words}"
            assert time.monotonic() < end, f"no {text!r} within {seconds} s:\n{self.words}"
            time.sleep(0.05)

    def ends(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it runs after {seconds} s; left: {self.left()}\n{self.words}")

    def left(self) -> list[str]:
        """Command lines of living processes that have to do with this run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes()
            except OSError:  # it ended meanwhile
                continue
            mine = str(self.root).encode() in line or str(self.temporary).encode() in line
            if mine and int(path.parent.name) != self.process.pid:
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
        return found

    def leaves_nothing(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.left():
            assert time.monotonic() < end, f"left after {seconds} s: {self.left()}"
            time.sleep(0.1)


@contextmanager
def _demo(folder: Path, *options: str, keep: bool = True) -> Iterator[Demo]:
    demo = Demo(folder, *options, keep=keep)
    try:
        yield demo
    finally:
        demo.process.kill()  # its children are bound to it
        demo.process.communicate()


class Told(NamedTuple):
    """What a whole run left."""

    code: int
    words: str
    report: Json
    processes: list[str]
    temporary: list[Path]


def _whole(folder: Path, *options: str) -> Told:
    path = folder / "report.json"
    with _demo(folder, "--report", str(path), *options) as demo:
        code = demo.ends(WHOLE_S)
        processes, temporary = demo.left(), list(demo.temporary.iterdir())
        assert path.is_file(), demo.words
        return Told(code, demo.words, json.loads(path.read_bytes()), processes, temporary)


@pytest.fixture(scope="module")
def with_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("demo-mosquitto")
    return _whole(folder, "--seed", "7", "--fault", "1", "--broker", "mosquitto")


@pytest.fixture(scope="module")
def with_embedded(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("demo-embedded")
    return _whole(folder, "--seed", "8", "--fault", "4", "--broker", "embedded")


KEYS = {
    "": "ok seconds versions train slices devices detection plants handoff outage rounds rollout",
    "versions": "python torch onnxruntime flwr litestar broker",
    "train": "parameters val_mse baselines",
    "train.baselines": "persistence dlinear var",
    "slices": "width precision bytes p50_ms val_error",
    "devices": "id profile width precision predictions handed_off refused p50_ms p99_ms",
    "detection": "fault false_alarm_rate detection_rate delay_samples top_sensors baselines",
    "detection.baselines": "pca",
    "plants": "site kind predictions alarms",
    "handoff": "requests local cloud refused late lost deadline_ms p50_ms p99_ms",
    "outage": "seconds local_predictions lost",
    "rounds": "round clients seconds bytes_up bytes_down val_mse",
    "rollout": "release devices state",
}


def _check_keys(report: Json) -> None:
    for place, names in KEYS.items():
        found: Any = report
        for name in filter(None, place.split(".")):
            found = found[name]
        for one in found if isinstance(found, list) else [found]:
            assert set(names.split()) <= set(one), place
        assert found, place


def _check_figures(report: Json) -> None:
    """Ranges that hold on any machine and for any seed; outside of them something is broken."""
    assert 10 < report["seconds"] < WHOLE_S
    train, found = report["train"], report["detection"]
    assert train["parameters"] > 1000
    assert 0.01 < train["val_mse"] < train["baselines"]["persistence"]
    for part in report["slices"]:
        assert part["bytes"] > 1000
        assert 0 < part["p50_ms"] < 1000
        assert train["val_mse"] * 0.9 < part["val_error"] < train["baselines"]["persistence"]
    assert 0 <= found["false_alarm_rate"] < 0.2
    assert found["detection_rate"] > 0.9
    assert 0 <= found["delay_samples"] < 30
    assert found["top_sensors"]
    pca = found["baselines"]["pca"]
    assert 0 <= pca["false_alarm_rate"] < pca["detection_rate"] <= 1
    assert report["outage"]["seconds"] > 1
    assert report["outage"]["local_predictions"] >= 100


def _check_fleet(report: Json) -> None:
    slices = {(part["width"], part["precision"]) for part in report["slices"]}
    assert {(1.0, "fp32"), (1.0, "int8"), (0.5, "int8"), (0.25, "int8")} <= slices
    devices = report["devices"]
    assert len({one["id"] for one in devices}) == 3
    assert len({one["profile"] for one in devices}) == 3
    for one in devices:
        assert (one["width"], one["precision"]) in slices
        assert one["predictions"] > 300
        assert 0 < one["p50_ms"] <= one["p99_ms"]
    assert len({one["width"] for one in devices}) > 1, "boards differ, so do their slices"
    assert sum(one["handed_off"] for one in devices) >= report["handoff"]["cloud"]
    assert [one["round"] for one in report["rounds"]] == sorted(
        {r["round"] for r in report["rounds"]}
    )
    for one in report["rounds"]:
        assert one["clients"] == 3
        assert one["bytes_up"] > 1000
        assert one["bytes_down"] > 1000
        assert 0.01 < one["val_mse"] < report["train"]["baselines"]["persistence"]
    assert report["rollout"]["devices"] == 3
    assert report["rollout"]["state"] == "succeeded"


def _check_burst(met: Json) -> None:
    assert met["local"] + met["cloud"] + met["refused"] + met["lost"] == met["requests"] > 0
    assert met["local"] > 0
    assert met["lost"] == 0
    assert 0 < met["p50_ms"] <= met["p99_ms"]


# What a machine that does a lot else beside may fail at: it is told, and the code says so.
LOAD = {"none was answered late", "every request was answered or refused in time"}


def _check(told: Told, *, fault: int, broker: str) -> None:
    report = told.report
    _check_keys(report)
    _check_figures(report)
    _check_fleet(report)
    _check_burst(report["handoff"])
    assert report["handoff"]["cloud"] > 0
    _check_burst(report["outage"]["requests"])
    assert report["outage"]["requests"]["cloud"] == 0
    assert report["outage"]["lost"] == 0
    assert report["detection"]["fault"] == fault
    assert report["versions"]["broker"] == broker
    assert report["versions"]["python"] == platform.python_version()
    assert set(report["failures"]) <= LOAD, told.words
    assert report["ok"] == (not report["failures"])
    assert told.code == (0 if report["ok"] else 1)
    assert told.processes == []
    assert told.temporary == []


def test_whole_loop_with_mosquitto(with_mosquitto: Told) -> None:
    _check(with_mosquitto, fault=1, broker="mosquitto")
    assert "pure-Python broker" not in with_mosquitto.words


def test_whole_loop_with_the_embedded_broker(with_embedded: Told) -> None:
    _check(with_embedded, fault=4, broker="embedded")
    assert "pure-Python broker" in with_embedded.words
    assert "apt-get install mosquitto" in with_embedded.words


def test_another_seed_and_fault_give_other_figures(
    with_mosquitto: Told, with_embedded: Told
) -> None:
    one, other = with_mosquitto.report, with_embedded.report
    assert one["train"]["val_mse"] != other["train"]["val_mse"]
    assert [r["val_mse"] for r in one["rounds"]] != [r["val_mse"] for r in other["rounds"]]
    assert one["detection"]["baselines"] != other["detection"]["baselines"]
    assert one["detection"]["top_sensors"] != other["detection"]["top_sensors"]
    assert {d["id"] for d in one["devices"]}.isdisjoint(d["id"] for d in other["devices"])


def _to_itself(demo: Demo) -> None:
    demo.process.send_signal(signal.SIGINT)


def _to_its_group(demo: Demo) -> None:
    """As a terminal does on Ctrl-C."""
    os.killpg(demo.process.pid, signal.SIGINT)


def _twice(demo: Demo) -> None:
    _to_its_group(demo)
    time.sleep(0.3)  # into the middle of the clean-up
    with suppress(ProcessLookupError):
        _to_its_group(demo)


def _politely(demo: Demo) -> None:
    demo.process.terminate()


MOMENTS = (
    pytest.param("1. The coordinator", _to_itself, id="coordinator-starts"),
    pytest.param("2. Three devices", _to_its_group, id="devices-enrol"),
    pytest.param("3. Each site", _twice, id="twice-in-the-replay"),
    pytest.param("4. The cloud trains", _to_itself, id="statistics-round"),
    pytest.param("sites sent matrices", _to_its_group, id="training-in-a-thread"),
    pytest.param("5. The model is cut", _politely, id="slicing-in-a-thread"),
    pytest.param("are stopped; the sites go on", _to_its_group, id="outage"),
)


@pytest.mark.parametrize(("moment", "interrupt"), MOMENTS)
def test_interrupted_it_says_one_line_and_leaves_nothing(
    tmp_path: Path, moment: str, interrupt: Callable[[Demo], None]
) -> None:
    with _demo(tmp_path) as demo:
        demo.until_it_says(moment)
        before = demo.words
        interrupt(demo)
        assert demo.ends(GONE_S) == 130
        demo.leaves_nothing(1)  # until the system has buried what was killed
        assert demo.words[len(before) :].split("\n")[-2:] == [
            "interrupted; every process has ended",
            "",
        ]
        assert "Traceback" not in demo.words
        assert list(demo.temporary.iterdir()) == []


def test_interrupted_with_the_embedded_broker(tmp_path: Path) -> None:
    with _demo(tmp_path, "--broker", "embedded") as demo:
        demo.until_it_says("3. Each site")
        _to_its_group(demo)
        assert demo.ends(GONE_S) == 130
        demo.leaves_nothing(1)
        assert "Traceback" not in demo.words


def test_interrupted_without_keep_it_removes_its_directory(tmp_path: Path) -> None:
    with _demo(tmp_path, keep=False) as demo:
        demo.until_it_says("2. Three devices")
        (made,) = demo.temporary.iterdir()
        assert made.name.startswith("aimass-demo-")
        _to_its_group(demo)
        assert demo.ends(GONE_S) == 130
        demo.leaves_nothing(1)
        assert list(demo.temporary.iterdir()) == []


@pytest.mark.parametrize("moment", ["3. Each site", "sites sent matrices"])
def test_killed_by_force_it_leaves_no_process(tmp_path: Path, moment: str) -> None:
    with _demo(tmp_path) as demo:
        demo.until_it_says(moment)
        assert len(demo.left()) >= 6, "a coordinator, two brokers, three agents"
        demo.process.kill()
        demo.ends(1)
        demo.leaves_nothing(GONE_S)


REFUSALS = (
    (("--fault", "99"), "no fault 99; it has 1, 2, 4, 6, 7, 8, 12, 14 [not-found]"),
    (("--report", "/no/such/dir/x.json"), "no such directory [invalid-setting]"),
    (("--report", "/"), "this is a directory; name a file in it [invalid-setting]"),
    (("--keep", "/dev/null"), "File exists [invalid-setting]"),
    (("--keep", "/proc"), "it is not empty; name a new directory [invalid-setting]"),
    (("--seed", "-1"), "choose one from 0 to 4294967295 [invalid-setting]"),
)


@pytest.mark.parametrize(("options", "words"), REFUSALS)
def test_what_cannot_be_done_is_said_at_once_in_one_line(
    tmp_path: Path, options: tuple[str, str], words: str
) -> None:
    with _demo(tmp_path, *options, keep=False) as demo:
        assert demo.ends(20) == 1
        assert demo.words.count("\n") == 1
        assert demo.words.startswith("aimass: ")
        assert demo.words.endswith(f"{words}\n")
        assert list(demo.temporary.iterdir()) == []
