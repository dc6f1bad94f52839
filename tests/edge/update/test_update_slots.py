"""Installs on a real disk: what is there is verified, what is damaged is not run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aimass_edge.update import state as states
from aimass_edge.update.slots import Bundle, Installed, Slots
from aimass_edge.update.state import Verdict
from aimass_shared.errors import BadDigestError, StateCorruptError
from aimass_shared.manifest import Role

Contents = dict[Role, bytes]
Install = Callable[[Slots, int], Installed]


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "models")


@pytest.fixture
def activate(install: Install) -> Install:
    """Install a release and make it the active one."""

    def step(slots: Slots, number: int) -> Installed:
        installed = install(slots, number)
        slots.change(lambda state: states.begin_trial(state, installed.digest, 3))
        slots.change(states.commit)
        return installed

    return step


def test_new_device_has_nothing(slots: Slots) -> None:
    assert slots.boot() is None
    assert slots.boot() is None, "a second first start must not differ"


def test_install_holds_what_the_agent_needs(slots: Slots, install: Install) -> None:
    found = install(slots, 1)
    names = {path.name for path in found.directory.iterdir()}
    assert names == {"manifest.json", "slice.json", "model.onnx", "train.onnx", "selftest.npz"}
    assert found.file("model").read_bytes() == b"model 1 " * 20
    assert found.ref.slice == found.entry.spec.name == "w0.50-int8"
    assert found.manifest.release == "r1"
    assert list(slots.incoming.iterdir()) == []
    assert slots.boot() is None, "nothing is committed by an install alone"


def test_trial_is_booted_and_an_attempt_is_spent_first(
    slots: Slots, activate: Install, install: Install
) -> None:
    old = activate(slots, 1)
    new = install(slots, 2)
    slots.change(lambda state: states.begin_trial(state, new.digest, 3))
    for left in (1, 0):
        booted = slots.boot()
        assert booted
        assert (booted.digest, booted.trial) == (new.digest, True)
        trial = Slots(slots.root).load().trial
        assert trial
        assert trial.left == left
    booted = slots.boot()
    assert booted
    assert (booted.digest, booted.trial) == (old.digest, False)
    assert new.digest in slots.load().bad


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "slice.json", "selftest.npz"])
def test_damaged_active_falls_back_to_previous(slots: Slots, activate: Install, name: str) -> None:
    old = activate(slots, 1)
    new = activate(slots, 2)
    path = new.directory / name
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    booted = slots.boot()
    assert booted
    assert booted.digest == old.digest


def test_damaged_trial_is_no_verdict_on_the_release(
    slots: Slots, activate: Install, install: Install
) -> None:
    old = activate(slots, 1)
    new = install(slots, 2)
    slots.change(lambda state: states.begin_trial(state, new.digest, 3))
    new.file("model").unlink()
    booted = slots.boot()
    assert booted
    assert booted.digest == old.digest
    assert slots.load().bad == {}
    assert install(slots, 2).digest == new.digest


def test_only_what_the_state_names_is_kept(slots: Slots, activate: Install) -> None:
    installs = [activate(slots, number) for number in (1, 2, 3)]
    slots.collect()
    assert [item.directory.exists() for item in installs] == [False, True, True]
    slots.reject(installs[2].digest, Verdict("unfit-release", "slow"))
    slots.collect()
    assert [item.directory.exists() for item in installs] == [False, True, False]


def test_install_of_wrong_bytes_is_not_taken(
    slots: Slots,
    make_bundle: Callable[[int], tuple[Bundle, Contents]],
    put_parts: Callable[[Slots, Contents], dict[Role, Path]],
) -> None:
    bundle, contents = make_bundle(1)
    parts = put_parts(slots, contents)
    parts["model"].write_bytes(b"something else")
    with pytest.raises(BadDigestError):
        slots.install(bundle, parts)
    assert slots.find(bundle.digest) is None


@pytest.mark.parametrize("raw", [b"", b"xyz", b"00000000 {}", b"\x00" * 200])
def test_damaged_state_is_said_then_set_aside(slots: Slots, activate: Install, raw: bytes) -> None:
    activate(slots, 1)
    path = slots.root / "state.json"
    path.write_bytes(raw)
    with pytest.raises(StateCorruptError):
        slots.load()
    assert slots.boot() is None
    assert (slots.root / "state.json.damaged").read_bytes() == raw
    assert activate(slots, 1), "the device can go on"


def test_every_save_is_counted_and_no_change_is_no_save(slots: Slots, activate: Install) -> None:
    activate(slots, 1)
    seq = slots.load().seq
    assert slots.change(lambda state: state).seq == seq
    assert slots.change(lambda s: states.begin_test(s, "x")).seq == seq + 1


def test_two_documents_cannot_be_shifted_into_each_other() -> None:
    assert Bundle(b"ab", b"c").digest != Bundle(b"a", b"bc").digest
