"""What answers look like: whole for people who copy, JSON for programs, nothing swallowed."""

import io
import json
import sys
from datetime import datetime

import pytest

from aimass_cloud.cli.output import ProgressLine, show

KEY = "aimass_0123456789ab_" + "k" * 43
TOKEN = f"aimass-join.{'0' * 64}.abcd.{'s' * 43}"
ROLLOUT = {
    "id": "o-20260101-000000-abcd",
    "state": "failed",
    "score": 0.123456,
    "board": {"name": "pi", "limits": {"memory_mib": 512}},
    "precisions": ["int8", "fp32"],
    "why": "no memory left for this [unfit-release]",
    "devices": [
        {"device": "north-1", "v": 3, "why": "[/] too old [unfit-release]", "stats": {"n": 1}},
        {"device": "north-2", "v": 12, "why": "", "stats": {}},
    ],
}


def test_json_is_what_came(capsys: pytest.CaptureFixture[str]) -> None:
    for answer in ([], {}, ROLLOUT, [ROLLOUT], {"token": TOKEN}):
        show(answer, json=True)
        assert json.loads(capsys.readouterr().out) == answer


def test_one_value_stands_alone_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    show({"token": TOKEN}, json=False)
    assert capsys.readouterr().out == f"{TOKEN}\n"


def test_a_key_is_whole_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show({"id": "0123456789ab", "scopes": ["infer"], "key": KEY}, json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["id      0123456789ab", 'scopes  ["infer"]', f"key     {KEY}"]


def test_nested_things_are_lines_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROLLOUT, json=False)
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["state", "failed"] in lines
    assert ["score", "0.1235"] in lines
    assert ["board.limits.memory_mib", "512"] in lines
    assert ["precisions", '["int8","fp32"]'] in lines
    assert "no memory left for this [unfit-release]" in text
    assert "[/] too old [unfit-release]" in text, "not taken for a style"
    assert [line for line in lines if "north-2" in line and "12" in line]


def test_a_list_is_a_table_with_whole_ids(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": f"tep-monitor-20260101-{n:050}", "text": "x" * 90} for n in range(2)]
    show(rows, json=False)
    text = capsys.readouterr().out
    assert all(row["id"] in text and row["text"] in text for row in rows)


def test_nothing_has_words(capsys: pytest.CaptureFixture[str]) -> None:
    show([], json=False)
    assert capsys.readouterr().out == "nothing there yet\n"
    show({}, json=False)
    assert capsys.readouterr().out == "done\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO(), False), (Terminal(), True)])
def test_progress_says_nothing_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, quiet: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressLine("train", quiet=quiet) as line:
        line.watch(0.5, "epoch 3")
    assert stream.getvalue() == ""


def test_progress_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressLine("train", quiet=False) as line:
        line.watch(0.5, "epoch 3")
    assert "epoch 3" in terminal.getvalue()


def test_times_are_shown_as_local_time_and_stay_numbers_in_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = {"id": "x", "created": 1_764_061_200_000, "finished": 0}
    show(answer, json=False)
    text = capsys.readouterr().out
    assert f"{datetime.fromtimestamp(1_764_061_200):%Y-%m-%d %H:%M:%S}" in text  # noqa: DTZ006
    assert text.splitlines()[-1].split() == ["finished", "-"]
    show(answer, json=True)
    assert json.loads(capsys.readouterr().out) == answer


def test_a_list_shows_nested_values_by_their_dotted_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"id": "a", "stats": {"predictions": 7}, "reported": None}, {"id": "b"}]
    show(rows, json=False, columns=("id", "stats.predictions", "reported.release.slice"))
    lines = capsys.readouterr().out.splitlines()
    words = [[word for word in line.split() if word.isalnum()] for line in lines]
    assert words[1] == ["id", "predictions", "slice"]
    assert words[3] == ["a", "7"]
    assert words[4] == ["b"]
