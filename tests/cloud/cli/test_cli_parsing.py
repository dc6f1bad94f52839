"""The command line without a coordinator: help, settings of `serve`, keys, and what is refused."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from aimass_cloud.cli import main
from aimass_cloud.cli.arguments import parsed, parser
from aimass_cloud.cli.commands import COMMANDS
from aimass_cloud.cli.main import FILES, serve_settings
from aimass_cloud.config import CloudSettings
from aimass_shared.errors import InvalidSettingError, UnknownSettingError


def _parsers(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _parsers(child)


def _leaves() -> list[argparse.ArgumentParser]:
    return [one for one in _parsers(parser()) if one.get_default("call")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory, with nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("AIMASS_URL", "AIMASS_KEY", "AIMASS_HTTP__PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", [one.prog for one in _parsers(parser())])
def test_help_shows_an_example_of_the_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split()[1:], "--help"])
    assert caught.value.code == 0
    _, _, examples = capsys.readouterr().out.partition("examples:")
    assert f"  {command}" in examples


def test_every_example_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    examples = set()
    for one in _parsers(parser()):
        for line in (one.epilog or one.description or "").splitlines():
            if line.startswith("  aimass "):
                examples.add(line.strip().partition("   ")[0].partition("  ")[0])
    assert len(examples) > 20
    for example in examples:
        assert parsed(example.split()[1:]).call, example
    assert capsys.readouterr().err == ""


def test_every_command_is_carried_out() -> None:
    calls = {one.get_default("call") for one in _leaves()}
    assert calls == COMMANDS.keys() | FILES.keys() | {"serve", "demo", "learn", "recipe-list"}


def test_every_command_that_speaks_to_a_coordinator_takes_json_and_a_key() -> None:
    for one in _leaves():
        if one.get_default("call") in COMMANDS:
            options = {option for action in one._actions for option in action.option_strings}
            assert {"--json", "--key", "--url", "--ca", "--data-dir"} <= options, one.prog


@pytest.mark.parametrize(
    "line", ["", "fly", "device", "device fly", "device token", "serve --port x", "release create"]
)
def test_what_is_no_command_is_explained(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    assert "usage: aimass" in capsys.readouterr().err


def _settings(line: str) -> CloudSettings:
    return serve_settings(parser().parse_args(["serve", *line.split()]))


def test_settings_come_from_file_then_environment_then_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _settings("") == CloudSettings()
    config = tmp_path / "aimass.toml"
    config.write_text('data_dir = "a"\n[http]\nport = 1\nhost = "::1"\n[mqtt]\nport = 9\n')
    monkeypatch.setenv("AIMASS_HTTP__PORT", "2")
    monkeypatch.setenv("AIMASS_DATA_DIR", "b")
    monkeypatch.setenv("AIMASS_URL", "http://elsewhere:1")  # of the other commands
    monkeypatch.setenv("AIMASS_KEY", "k")
    settings = _settings(f"--config {config} --data-dir c --broker embedded --mqtt mqtt://h")
    assert (settings.http.host, settings.http.port) == ("::1", 2)
    assert settings.data_dir == "c"
    assert (settings.mqtt.port, settings.mqtt.broker, settings.mqtt.url) == (
        9,
        "embedded",
        "mqtt://h",
    )


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ("[http]\nprot = 1", UnknownSettingError, "did you mean `http.port`"),
        ("[serving]\nport = 1", UnknownSettingError, "no setting `serving.port`"),
        ("speed = 1", UnknownSettingError, "no setting `speed`"),
        ("http = 3", InvalidSettingError, "`http` must be a table"),
        ("[http]\nport = 'x'", InvalidSettingError, "`http.port` must be int"),
        ("[http]\nport = 65536", InvalidSettingError, "<= 65535"),
        ("[http]\nport = -1", InvalidSettingError, ">= 0"),
        ("[http]\nmax_body_bytes = 0", InvalidSettingError, ">= 1"),
        ("[serving]\nthreads = -1", InvalidSettingError, "`serving.threads`"),
        ("[mqtt]\nbroker = 'x'", InvalidSettingError, "one of 'auto', 'mosquitto', 'embedded'"),
        ("[http", InvalidSettingError, "is not valid TOML"),
    ],
)
def test_a_wrong_config_is_one_line_that_helps(
    tmp_path: Path, text: str, kind: type[Exception], hint: str
) -> None:
    config = tmp_path / "aimass.toml"
    config.write_text(text)
    with pytest.raises(kind, match=hint) as caught:
        _settings(f"--config {config}")
    assert str(config) in str(caught.value), "where it came from"


def test_a_config_that_is_not_there() -> None:
    with pytest.raises(InvalidSettingError, match=r"cannot read nowhere\.toml"):
        _settings("--config nowhere.toml")


def _failure(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(line.split()) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("aimass: ")
    return captured.err.strip()


@pytest.mark.parametrize(
    ("line", "code", "hint"),
    [
        ("model list", "unauthenticated", "set AIMASS_KEY"),
        ("model list --data-dir /nowhere", "unauthenticated", "/nowhere/admin.key"),
        ("model list --key ä", "unauthenticated", "characters that no key has"),
        ("model list --key k --url foo", "invalid-setting", "'foo' is no URL"),
        ("model list --key k --url http://127.0.0.1:1", "cloud-unavailable", "aimass serve"),
        ("model list --key k --ca /nowhere", "invalid-setting", "no CA certificate"),
        ("serve --port 99999", "invalid-setting", "<= 65535"),
        ("serve --config /nowhere", "invalid-setting", "cannot read /nowhere"),
    ],
)
def test_an_error_is_one_line_with_a_code(
    line: str, code: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = _failure(line, capsys)
    assert said.endswith(f" [{code}]")
    assert hint in said


def test_an_empty_name_is_refused_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["device", "show", "", "--key", "k", "--url", "http://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.endswith("[not-found]\n")
