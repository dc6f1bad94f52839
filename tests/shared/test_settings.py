"""Settings: the order of the sources, every type, and messages that say what to mend."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.errors import InvalidSettingError, UnknownSettingError
from aimass_shared.settings import load

PREFIX = "AIMASS_"


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    tls: Literal["auto", "on", "off"] = "auto"
    verbose: bool = False


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topic: str = ""
    version: Literal[4, 5] = 5
    sensors: tuple[str, ...] = ()
    rename: dict[str, str] = {}
    rate_hz: float = 1.0

    def __post_init__(self) -> None:
        if self.rate_hz <= 0:
            raise ValueError("rate_hz must be greater than 0")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data_dir: str = ".aimass"
    http: Http = Http(port=9000)
    source: Source = Source()
    spare: Http | None = None


class Needy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device_name: str


def _file(folder: Path, text: str, name: str = "site.toml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def _from_env(**environ: str) -> Settings:
    return load(Settings, prefix=PREFIX, environ=environ)


def test_defaults_alone() -> None:
    assert _from_env() == Settings()


def test_later_sources_win_and_tables_merge(tmp_path: Path) -> None:
    first = _file(tmp_path, '[http]\nhost = "10.0.0.1"\nport = 1\ntls = "on"\n', "board.toml")
    second = _file(tmp_path, "[http]\nport = 2\n", "site.toml")
    settings = load(
        Settings,
        prefix=PREFIX,
        files=[first, second],
        environ={"AIMASS_HTTP__PORT": "3", "AIMASS_HTTP__VERBOSE": "true", "HOME": "/x"},
        overrides={"http.port": 4, "http.tls": None, "data_dir": "/data"},
    )
    assert settings.http == Http(host="10.0.0.1", port=4, tls="on", verbose=True)
    assert settings.data_dir == "/data"


def test_a_partly_set_table_keeps_the_defaults_of_its_owner() -> None:
    assert _from_env(AIMASS_HTTP__HOST="::1").http == Http(host="::1", port=9000)


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMASS_HTTP__PORT", "81")
    assert load(Settings, prefix=PREFIX).http.port == 81


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("AIMASS_DATA_DIR", "12345", "data_dir", "12345"),
        ("AIMASS_DATA_DIR", "true", "data_dir", "true"),
        ("AIMASS_SOURCE__TOPIC", "{line}/x", "source.topic", "{line}/x"),
        ("AIMASS_SOURCE__VERSION", "4", "source.version", 4),
        ("AIMASS_SOURCE__RATE_HZ", "2", "source.rate_hz", 2.0),
        ("AIMASS_SOURCE__SENSORS", '["a", "b"]', "source.sensors", ("a", "b")),
        ("AIMASS_SOURCE__RENAME", '{TI1 = "X_1"}', "source.rename", {"TI1": "X_1"}),
        ("AIMASS_SOURCE__RENAME", '{"TI1": "X_1"}', "source.rename", {"TI1": "X_1"}),
        ("AIMASS_HTTP__VERBOSE", "True", "http.verbose", True),
        ("AIMASS_HTTP", "{port = 7}", "http.port", 7),
        ("AIMASS_SPARE__PORT", "7", "spare.port", 7),
    ],
)
def test_text_is_read_as_the_type_of_its_setting(
    name: str, text: str, key: str, value: object
) -> None:
    found: object = _from_env(**{name: text})
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_text_on_the_command_line_is_read_alike() -> None:
    overrides = {"http.port": "81", "source.sensors": '["a"]'}
    settings = load(Settings, prefix=PREFIX, environ={}, overrides=overrides)
    assert (settings.http.port, settings.source.sensors) == (81, ("a",))


def test_both_sides_can_share_one_environment() -> None:
    environ = {"AIMASS_EDGE_DATA_DIR": "/edge", "AIMASS_DATA_DIR": "/cloud"}
    assert load(Settings, prefix="AIMASS_", environ=environ).data_dir == "/cloud"
    assert load(Settings, prefix="AIMASS_EDGE_", environ=environ).data_dir == "/edge"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[http]\nprot = 1\n", "no setting `http.prot` (set by {path}); did you mean `http.port`?"),
        ("[htpp]\nport = 1\n", "no setting `htpp` (set by {path}); did you mean `http`?"),
        ("port = 1\n", "no setting `port` (set by {path}); did you mean `http.port`?"),
        ("[source]\nqqq = 1\n", "no setting `source.qqq` (set by {path}); known here: topic, "),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(tmp_path: Path, text: str, said: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(UnknownSettingError) as caught:
        load(Settings, prefix=PREFIX, files=[path], environ={})
    assert caught.value.detail.startswith(said.format(path=path))


def test_an_unknown_variable_is_named_as_it_was_typed() -> None:
    with pytest.raises(UnknownSettingError, match=r"AIMASS_HTTP__PROT.*`http\.port`"):
        _from_env(AIMASS_HTTP__PROT="1")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("AIMASS_HTTP__PORT", "x", r"`http\.port` must be int: .*got `str` \(set by AIMASS_HTTP__"),
        ("AIMASS_HTTP__PORT", "70000", r"`http\.port` must be int: .*<= 65535"),
        ("AIMASS_HTTP__TLS", "no", r"`http\.tls` must be one of 'auto', 'on', 'off'"),
        ("AIMASS_HTTP", "3", r"`http` must be a table \(set by AIMASS_HTTP\)"),
        ("AIMASS_SOURCE__SENSORS", "a", r"`source\.sensors` must be a list of str"),
        ("AIMASS_SOURCE__RATE_HZ", "0", r"`source`: rate_hz must be greater than 0 \(set by AIM"),
        ("AIMASS_DATA_DIR__X", "1", r"`data_dir` must be str: .*got `object`"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_origin(name: str, text: str, said: str) -> None:
    with pytest.raises(InvalidSettingError, match=said):
        _from_env(**{name: text})


def test_a_wrong_value_names_its_file(tmp_path: Path) -> None:
    path = _file(tmp_path, '[http]\nport = "80"\n')
    with pytest.raises(InvalidSettingError, match=f"set by {path}"):
        load(Settings, prefix=PREFIX, files=[path], environ={})


def test_a_wrong_option_names_the_command_line() -> None:
    with pytest.raises(InvalidSettingError, match="set by the command line"):
        load(Settings, prefix=PREFIX, environ={}, overrides={"http.port": 1.5})


def test_a_missing_setting_says_how_to_give_it() -> None:
    with pytest.raises(InvalidSettingError, match="AIMASS_EDGE_DEVICE_NAME"):
        load(Needy, prefix="AIMASS_EDGE_", environ={})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"cannot read .*absent\.toml: No such file"):
        load(Settings, prefix=PREFIX, files=[tmp_path / "absent.toml"], environ={})


@pytest.mark.parametrize("raw", [b"[http\n", b"a = '\xff'\n"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(raw)
    with pytest.raises(InvalidSettingError, match=r"bad\.toml is not valid TOML"):
        load(Settings, prefix=PREFIX, files=[path], environ={})


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_any_text_reaches_a_text_setting_unless_it_is_a_table(text: str) -> None:
    if not text.lstrip().startswith("{"):
        assert _from_env(AIMASS_DATA_DIR=text).data_dir == text


@given(st.integers(-(2**40), 2**40))
def test_any_number_reaches_its_setting_or_is_refused_by_range(number: int) -> None:
    if 0 <= number <= 65535:
        assert _from_env(AIMASS_HTTP__PORT=str(number)).http.port == number
    else:
        with pytest.raises(InvalidSettingError, match=r"65535|>= 0"):
            _from_env(AIMASS_HTTP__PORT=str(number))
