"""The commands as typed: help, settings that are wrong, what `check` says, exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from aimass_edge.cli import main
from aimass_edge.cli.arguments import parser
from aimass_edge.cli.main import FAILED
from aimass_shared import identity

Enrol = Callable[..., Path]
COMMANDS = ("enroll", "run", "check", "status", "bench")


class Address(NamedTuple):
    host: str
    port: int


class Said(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process."""

    def command(*arguments: object) -> Said:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return command


@pytest.fixture
def site(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "site.toml"
        path.write_text(text)
        return path

    return write


def lines(said: Said) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in said.out.splitlines())


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)])
def test_help_of_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: aimass-edge")
    assert all(name in text for name in (arguments and ["--profile", "--config"]) or COMMANDS)


def test_the_examples_of_the_help_are_commands() -> None:
    text = parser().format_help()
    examples = [line.split()[1:] for line in text.splitlines() if line.startswith("  aimass-edge ")]
    assert {parser().parse_args(words).command for words in examples} == set(COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["enroll"], ["run", "--fast"]])
def test_a_wrong_command_line_is_told(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "aimass-edge" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "check", "status"])
def test_an_unknown_profile_lists_those_that_are_there(run: Run, command: str) -> None:
    said = run(command, "--profile", "raspberry")
    assert said.code == FAILED
    assert "no board profile 'raspberry'" in said.err
    assert "raspberry-pi-5" in said.err
    assert said.err.endswith("[unknown-setting]\n")


@pytest.mark.parametrize(
    ("text", "code", "word"),
    [
        ("[source]\nkindd = 'json'\n", "unknown-setting", "kind"),
        ("[api]\nport = 'ninety'\n", "invalid-setting", "api.port"),
        ("[source]\nkind = 'opc-ua'\n", "invalid-setting", "source.kind"),
        ("heartbeat_s = \n", "invalid-setting", "site.toml"),
    ],
)
def test_a_wrong_key_names_the_file_and_the_nearest(
    run: Run, site: Callable[[str], Path], text: str, code: str, word: str
) -> None:
    said = run("check", "--config", site(text))
    assert said.code == FAILED
    assert said.err.count("\n") == 1
    assert word in said.err
    assert "site.toml" in said.err
    assert said.err.endswith(f"[{code}]\n")


def test_a_site_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    said = run("check", "--config", tmp_path / "gone.toml")
    assert (said.code, said.err.count("\n")) == (FAILED, 1)
    assert "gone.toml" in said.err


def test_the_environment_and_options_win(
    run: Run, site: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIMASS_EDGE_BOARD__NAME", "bench")
    monkeypatch.setenv("AIMASS_EDGE_DATA_DIR", str(tmp_path / "environment"))
    path = site("data_dir = 'file'\n[board]\nname = 'from-file'\n")
    said = run("check", "--config", path, "--data-dir", tmp_path / "option")
    assert lines(said)["board"].startswith("ok: bench, ")
    assert str(tmp_path / "option") in lines(said)["identity"]


def test_a_device_that_is_not_enrolled_is_told_what_to_do(run: Run, tmp_path: Path) -> None:
    said = run("run", "--data-dir", tmp_path)
    assert said.code == FAILED
    assert said.err == (
        f"aimass-edge: no identity in {tmp_path}: run `aimass-edge enroll` first [not-found]\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_status_without_an_agent(run: Run, site: Callable[[str], Path]) -> None:
    said = run("status", "--config", site("[api]\nport = 9\n"))
    assert (said.code, said.err.count("\n")) == (FAILED, 1)
    assert "http://127.0.0.1:9/status" in said.err
    assert said.err.endswith("[not-found]\n")


def test_enrolment_that_cannot_be(run: Run, tmp_path: Path) -> None:
    token = identity.JoinToken("0" * 64, "0" * 12, "s" * 32).text()
    said = run("enroll", "--cloud", "http://127.0.0.1:9", "--token", token, "--data-dir", tmp_path)
    assert (said.code, said.err.count("\n")) == (FAILED, 1)
    assert said.err.endswith("[cloud-unavailable]\n")
    said = run("enroll", "--cloud", "http://127.0.0.1:9", "--token", "x", "--data-dir", tmp_path)
    assert said.err.endswith("[bad-join-token]\n")
    said = run("enroll", "--cloud", "http://plant:80", "--token", token, "--data-dir", tmp_path)
    assert said.err.endswith("[invalid-setting]\n")
    assert list(tmp_path.iterdir()) == []


def test_check_says_why_a_backend_is_not_used(run: Run, tmp_path: Path) -> None:
    said = run("check", "--data-dir", tmp_path, "--profile", "jetson-orin-nano")
    told = lines(said)["backend"]
    assert told.startswith("ok: CPUExecutionProvider (not tensorrt: ")
    assert "not TensorrtExecutionProvider: this ONNX Runtime was built without it" in told
    assert "not CUDAExecutionProvider: " in told


def test_check_of_a_device_that_is_new(run: Run, tmp_path: Path) -> None:
    said = run("check", "--data-dir", tmp_path)
    told = lines(said)
    assert said.code == FAILED
    assert told["ok"] == "false"
    assert told["board"].startswith("ok: x86-gateway, Python 3.")
    assert told["backend"] == "ok: CPUExecutionProvider"
    assert told["model"] == "ok: none yet, a rollout brings one"
    assert told["factory broker"] == "ok: no telemetry source is configured"
    assert told["monitor"] == "ok: that of the release"
    for part in ("identity", "cloud", "fleet broker"):
        assert told[part].startswith("error: ")
        assert told[part].endswith("[not-found]")
    assert list(tmp_path.iterdir()) == [], "it only looks"


def test_check_says_what_does_not_answer(
    run: Run, enrol: Enrol, site: Callable[[str], Path], mosquitto: Address
) -> None:
    path = site("[source]\nkind = 'json'\nurl = 'mqtt://127.0.0.1:9'\n")
    said = run("check", "--config", path, "--data-dir", enrol(broker_port=mosquitto.port), "--json")
    told = json.loads(said.out)
    assert (said.code, told["ok"]) == (FAILED, False)
    assert told["identity"] == "ok: press-1 of site press"
    assert told["cloud"].endswith("[cloud-unavailable]")
    assert told["fleet broker"] == f"ok: 127.0.0.1:{mosquitto.port}"
    assert told["factory broker"].endswith(
        "127.0.0.1:9 does not accept connections [broker-unavailable]"
    )


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:1883", "http://broker", "mqtt://", "mqtt://broker:port", "mqtt://broker:99999"],
)
def test_check_refuses_an_address_that_is_none(
    run: Run, enrol: Enrol, site: Callable[[str], Path], url: str
) -> None:
    path = site(f"[source]\nkind = 'json'\nurl = '{url}'\n")
    said = run("check", "--config", path, "--data-dir", enrol())
    assert lines(said)["factory broker"].endswith("[invalid-setting]")


def test_check_finds_a_damaged_model_store(run: Run, enrol: Enrol) -> None:
    data = enrol()
    (data / "models").mkdir()
    (data / "models" / "state.json").write_bytes(b"00000000 {}")
    said = run("check", "--data-dir", data)
    assert lines(said)["model"].startswith("error: ")
    assert lines(said)["model"].endswith("[state-corrupt]")


@pytest.mark.parametrize("file", ["identity.json", "device.key"])
def test_a_damaged_identity_is_told(run: Run, enrol: Enrol, file: str) -> None:
    data = enrol()
    (data / "identity" / file).write_bytes(b"damaged")
    said = run("run", "--data-dir", data)
    assert (said.code, said.err.count("\n")) == (FAILED, 1)
    assert said.err.endswith("[state-corrupt]\n")
