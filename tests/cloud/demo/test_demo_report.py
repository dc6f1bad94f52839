"""The report as JSON and as tables, and how the demo speaks."""

import io
import json
from typing import Any

import msgspec
import pytest
from rich.console import Console

from aimass_cloud.demo import report as reports
from aimass_cloud.demo import versions
from aimass_cloud.demo.detection import Detection, Rates
from aimass_cloud.demo.report import (
    DeviceReport,
    HandoffReport,
    OutageReport,
    PlantReport,
    Report,
    RolloutReport,
    RoundReport,
    SliceReport,
    TrainReport,
)
from aimass_cloud.demo.voice import Voice

MET = HandoffReport(
    requests=240,
    local=111,
    cloud=92,
    refused=37,
    late=0,
    lost=0,
    deadline_ms=400,
    p50_ms=31.5,
    p99_ms=390.25,
    codes={"overloaded": 37},
)
REPORT = Report(
    ok=False,
    seconds=98.7,
    seed=7,
    fault=4,
    versions=versions.gather("mosquitto"),
    train=TrainReport(54_321, 0.4567, {"persistence": 1.25, "dlinear": 0.75, "var": 0.5}, 12.5),
    slices=[SliceReport(0.25, "int8", 123_456, 0.42, 0.4711)],
    devices=[
        DeviceReport(
            id="east-1a2b",
            site="east",
            profile="raspberry-pi-5",
            width=0.25,
            precision="int8",
            predictions=777,
            handed_off=92,
            refused=37,
            p50_ms=1.25,
            p99_ms=9.75,
            rss_mib=130.0,
        )
    ],
    detection=Detection(
        fault=4,
        false_alarm_rate=0.0123,
        detection_rate=0.987,
        delay_samples=3,
        top_sensors=["XMV_10"],
        windows=999,
        baselines={"pca": Rates(0.05, 0.5)},
    ),
    plants=[PlantReport("north", "sparkplug", 610, 320)],
    handoff=MET,
    outage=OutageReport(11.5, 360, 0, MET),
    rounds=[RoundReport(1, 3, 2.5, 1_234_000, 2_345_000, 0.4444)],
    rollout=RolloutReport("tep-monitor-2", 3, "succeeded"),
    failures=["none was answered late"],
)


def _shown(report: Report) -> str:
    out = io.StringIO()
    reports.show(report, Console(file=out, width=160))
    return out.getvalue()


def test_encode_is_readable_json_of_all_that_was_measured() -> None:
    raw = reports.encode(REPORT)
    assert raw.endswith(b"}\n")
    assert b'\n  "ok": false,' in raw
    assert msgspec.json.decode(raw, type=Report) == REPORT
    plain: dict[str, Any] = json.loads(raw)
    assert set(plain) == set(Report.__struct_fields__)
    assert plain["handoff"]["codes"] == {"overloaded": 37}
    assert plain["failures"] == ["none was answered late"]


@pytest.mark.parametrize(
    "figure",
    [
        "width 0.25 int8",
        "123,456",
        "0.42",
        "0.4711",
        "east-1a2b",
        "raspberry-pi-5",
        "777",
        "9.75",
        "1234",
        "2345",
        "0.4444",
        "model 0.4567 (persistence 1.2500, dlinear 0.7500, var 0.5000)",
        "98.7% of faulty windows, 1.2% false alarms, after 3 samples",
        "50.0% of faulty windows, 5.0% false alarms",
        "XMV_10",
        "240 requests, 400 ms: 111 local, 92 cloud, 37 refused, 0 late, 0 lost",
        "11.5 s, 360 predictions made, 0 lost",
        "tep-monitor-2 on 3 devices: succeeded",
        "98.7 s",
    ],
)
def test_show_has_every_figure(figure: str) -> None:
    assert figure in _shown(REPORT)


def test_show_does_not_take_words_in_brackets_for_markup() -> None:
    report = msgspec.structs.replace(
        REPORT, rollout=RolloutReport("r", 3, "failed [self-test-failed]")
    )
    assert "failed [self-test-failed]" in _shown(report)


def test_versions_are_those_of_this_environment() -> None:
    found = versions.gather("embedded")
    assert found.broker == "embedded"
    assert all(msgspec.structs.astuple(found))


def test_voice_numbers_chapters_and_says_things_word_for_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    voice = Voice()
    voice.chapter("The coordinator starts")
    voice.say("east-1: refused [self-test-failed] :warning: 50%")
    voice.chapter("Devices")
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.split("\n")
    assert lines[1].startswith("1. The coordinator starts")
    assert lines[2] == "   east-1: refused [self-test-failed] :warning: 50%"
    assert lines[4].startswith("2. Devices")


def test_bars_say_nothing_where_nobody_sees_them_move(capsys: pytest.CaptureFixture[str]) -> None:
    voice = Voice()
    with voice.following("training") as watch:
        watch(0.5, "step 3")
    with voice.counting("rows", 10) as told:
        told(4)
    assert capsys.readouterr() == ("", "")
