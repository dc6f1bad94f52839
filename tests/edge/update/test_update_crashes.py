"""Power cuts, full disks and kills at every step of an update: something verified always boots.

A recording disk gives the operations of one run. Each prefix of them is a moment of a power cut;
for each, what a disk may have kept is enumerated: names that were not flushed may be missing (in
order, as journals do, or in any combination), bytes that were not flushed may be absent or half.
"""

import errno
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from aimass_edge.update import state as states
from aimass_edge.update.fs import Fs, disk_errors
from aimass_edge.update.slots import Bundle, Installed, Slots
from aimass_shared.errors import StorageError, StorageFullError
from aimass_shared.manifest import Role

Contents = dict[Role, bytes]
Install = Callable[[Slots, int], Installed]
Tree = dict[str, bytes | None]
"""Paths with their bytes; None for a directory."""
Mode = Literal["journal", "any"]
LOOSE_LIMIT = 8
ATTEMPTS = 2


class Op(NamedTuple):
    kind: Literal["write", "fsync", "fsync_dir", "rename", "mkdir", "remove", "mark"]
    path: str
    target: str = ""
    data: bytes = b""

    def names(self, folder: str) -> bool:
        """Whether flushing a directory makes this operation durable."""
        paths = {self.path, self.target} if self.kind == "rename" else {self.path}
        return any(path and str(Path(path).parent) == folder for path in paths)


class Recorder(Fs):
    """Does everything, and writes it down; a careless one forgets to flush."""

    def __init__(self, root: Path, forgets: frozenset[str] = frozenset()) -> None:
        self.root = root
        self.log: list[Op] = []
        self._forgets = forgets

    def _note(self, kind: str, path: Path, target: Path | None = None, data: bytes = b"") -> None:
        if kind not in self._forgets:
            there = os.path.relpath(target, self.root) if target else ""
            here = os.path.relpath(path, self.root)
            self.log.append(Op(kind, here, there, data))  # type: ignore[arg-type]  # one of Op's kinds

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        self._note("write", path, data=data)

    def append(self, path: Path, data: bytes) -> None:
        super().append(path, data)
        self._note("write", path, data=path.read_bytes())

    def fsync(self, path: Path) -> None:
        super().fsync(path)
        self._note("fsync", path)

    def fsync_dir(self, path: Path) -> None:
        super().fsync_dir(path)
        self._note("fsync_dir", path)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._note("rename", source, target)

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._note("mkdir", path)

    def remove(self, path: Path) -> None:
        if path.exists():
            self._note("remove", path)
        super().remove(path)

    def mark(self, what: str) -> None:
        self.log.append(Op("mark", what))


def read_tree(root: Path) -> Tree:
    return {
        os.path.relpath(path, root): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def write_tree(tree: Tree, root: Path) -> None:
    root.mkdir()
    for name in sorted(tree):
        data, path = tree[name], root / name
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        elif path.parent.is_dir():  # a file in a directory that is lost is lost, too
            path.write_bytes(data)


def below(tree: Tree, path: str) -> list[str]:
    return [name for name in tree if name == path or name.startswith(f"{path}/")]


def apply(tree: Tree, op: Op, data: bytes) -> None:
    if op.kind == "write":
        tree[op.path] = data
    elif op.kind == "mkdir":
        tree[op.path] = None
    elif op.kind == "remove":
        for name in below(tree, op.path):
            del tree[name]
    elif op.kind == "rename" and (moved := below(tree, op.path)):
        for name in below(tree, op.target):
            del tree[name]
        for name in moved:
            tree[op.target + name.removeprefix(op.path)] = tree.pop(name)


def flushed(ops: list[Op]) -> tuple[set[int], set[int]]:
    """Operations whose names are durable, and writes whose bytes are."""
    names: set[int] = set()
    bodies: set[int] = set()
    for index, op in enumerate(ops):
        if op.kind == "fsync_dir":
            names |= {i for i in range(index) if ops[i].names(op.path)}
        if op.kind == "fsync":
            writes = [i for i in range(index) if ops[i][:2] == ("write", op.path)]
            bodies |= set(writes[-1:])
    return names | bodies, bodies


def kept_sets(ops: list[Op], durable: set[int], mode: Mode) -> Iterator[set[int]]:
    """Every set of operations that the disk may have kept."""
    changing = [i for i, op in enumerate(ops) if op.kind in {"write", "rename", "mkdir", "remove"}]
    if mode == "journal":
        last = max(durable, default=-1)
        certain = {i for i in changing if i <= last}
        loose = [i for i in changing if i > last]
        yield from (certain | set(loose[:count]) for count in range(len(loose) + 1))
        return
    loose = [i for i in changing if i not in durable][-LOOSE_LIMIT:]
    certain = set(changing) - set(loose)
    for count in range(len(loose) + 1):
        yield from (certain | set(some) for some in itertools.combinations(loose, count))


def crash_trees(ops: list[Op], base: Tree, mode: Mode) -> Iterator[Tree]:
    """Every disk that a power cut after `ops` may leave."""
    durable, bodies = flushed(ops)
    for kept in kept_sets(ops, durable, mode):
        torn = [i for i in sorted(kept) if ops[i].kind == "write" and i not in bodies][-3:]
        for shares in itertools.product((0.0, 0.5, 1.0), repeat=len(torn)):
            left = dict(zip(torn, shares, strict=True))
            tree = dict(base)
            for index in sorted(kept):
                data = ops[index].data
                apply(tree, ops[index], data[: int(len(data) * left.get(index, 1.0))])
            yield tree


class Run(NamedTuple):
    base: Tree
    log: list[Op]
    old: str
    new: str
    bad: str


def record(root: Path, install: Install, forgets: frozenset[str] = frozenset()) -> Run:
    """An update that works, then one that crashes at every start."""
    slots = Slots(root)
    old = install(slots, 1).digest
    slots.change(lambda state: states.begin_trial(state, old, ATTEMPTS))
    slots.change(states.commit)
    base = read_tree(root)
    disk = Recorder(root, forgets)
    slots = Slots(root, disk)
    new = install(slots, 2).digest
    slots.change(lambda state: states.begin_trial(state, new, ATTEMPTS))
    slots.change(states.commit)
    disk.mark("committed")
    slots.collect()
    bad = install(slots, 3).digest
    slots.change(lambda state: states.begin_trial(state, bad, ATTEMPTS))
    disk.mark("trial")
    for start in range(ATTEMPTS):
        slots.boot()
        disk.mark(f"start {start}")
    slots.collect()
    return Run(base, disk.log, old, new, bad)


def verdict(root: Path, run: Run, marks: set[str]) -> str:
    """What is wrong after a power cut, "" if nothing is."""
    try:
        booted = Slots(root).boot()
        state = Slots(root).load()
    except Exception as error:  # noqa: BLE001  # any error at a start is a violation
        return f"{type(error).__name__} at start"
    if booted is None:
        return "nothing boots"
    if "committed" in marks and booted.digest == run.old:
        return "an acknowledged commit is lost"
    if f"start {ATTEMPTS - 1}" in marks and booted.digest == run.bad:
        return "a rejected install runs again"
    if "start 0" in marks and state.trial is not None:
        return "a spent attempt is given back"
    return ""


def violations(run: Run, tmp_path: Path, mode: Mode) -> tuple[int, dict[str, int]]:
    """Distinct disks that were tried, and what was wrong how often."""
    seen: set[int] = set()
    wrong: dict[str, int] = {}
    for length in range(len(run.log) + 1):
        marks = {op.path for op in run.log[:length] if op.kind == "mark"}
        ops = [op for op in run.log[:length] if op.kind != "mark"]
        for tree in crash_trees(ops, run.base, mode):
            key = hash((frozenset(tree.items()), frozenset(marks)))
            if key in seen:
                continue
            seen.add(key)
            root = tmp_path / f"cut-{mode}-{len(seen)}"
            write_tree(tree, root)
            if found := verdict(root, run, marks):
                wrong[found] = wrong.get(found, 0) + 1
            Fs().remove(root)
    return len(seen), wrong


@pytest.mark.parametrize("mode", ["journal", "any"])
def test_power_cut_at_any_moment_loses_nothing(
    tmp_path: Path, install: Install, mode: Mode
) -> None:
    disks, wrong = violations(record(tmp_path / "run", install), tmp_path, mode)
    assert wrong == {}
    assert disks > 50


@pytest.mark.parametrize(("forgets", "mode"), [("fsync", "journal"), ("fsync_dir", "any")])
def test_enumeration_finds_a_missing_flush(
    tmp_path: Path, install: Install, forgets: str, mode: Mode
) -> None:
    run = record(tmp_path / "run", install, frozenset({forgets}))
    run = run._replace(log=run.log[: [op.kind for op in run.log].index("mark") + 1])
    assert violations(run, tmp_path, mode)[1]


class Failing(Fs):
    """Fails once, at the operation with a number, leaving half of what it was to write."""

    def __init__(self, at: int, code: int) -> None:
        self._left = at
        self._code = code
        self.failed = False

    def _step(self, path: Path, data: bytes = b"") -> None:
        self._left -= 1
        if self._left == 0:
            self.failed = True
            if data:
                path.write_bytes(data[: len(data) // 2])
            raise OSError(self._code, os.strerror(self._code), str(path))

    def write(self, path: Path, data: bytes) -> None:
        self._step(path, data)
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        self._step(path, data)
        super().append(path, data)

    def fsync(self, path: Path) -> None:
        self._step(path)
        super().fsync(path)

    def fsync_dir(self, path: Path) -> None:
        self._step(path)
        super().fsync_dir(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step(source)
        super().rename(source, target)

    def mkdir(self, path: Path) -> None:
        self._step(path)
        super().mkdir(path)

    def remove(self, path: Path) -> None:
        self._step(path)
        super().remove(path)


def update(slots: Slots, install: Install, number: int) -> str:
    for part in slots.incoming.glob("*"):
        part.unlink()  # as the downloads do with what does not verify
    installed = install(slots, number)
    slots.change(lambda state: states.begin_trial(state, installed.digest, ATTEMPTS))
    slots.boot()
    slots.change(states.commit)
    slots.collect()
    return installed.digest


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, StorageFullError), (errno.EIO, StorageError)]
)
def test_disk_that_fails_at_any_operation_leaves_a_device_that_works(
    tmp_path: Path, install: Install, code: int, kind: type[StorageError]
) -> None:
    failures = 0
    for at in itertools.count(1):
        root = tmp_path / f"{code}-{at}"
        old = update(Slots(root), install, 1)
        disk = Failing(at, code)
        with suppress(kind), disk_errors():
            update(Slots(root, disk), install, 2)
        if not disk.failed:
            break
        failures += 1
        booted = Slots(root).boot()
        assert booted, f"nothing boots after failure {at}"
        assert booted.digest in {old, update(Slots(root), install, 2)}
        assert Slots(root).load().active != old, "the next try must work"
    assert failures > 20


WRITER = """
import sys
from pathlib import Path
from aimass_edge.update import state as states
from aimass_edge.update.slots import Bundle, Slots
slots, samples = Slots(Path(sys.argv[1])), sorted(Path(sys.argv[2]).iterdir())
slots.boot()
turn = 0
while True:
    turn += 1
    folder = samples[turn % len(samples)]
    bundle = Bundle((folder / "manifest.json").read_bytes(), (folder / "slice.json").read_bytes())
    parts = {}
    for role in ("model", "train", "selftest"):
        parts[role] = slots.incoming / f"{role}.part"
        slots.fs.write(parts[role], (folder / role).read_bytes())
    digest = slots.install(bundle, parts).digest
    slots.change(lambda state: states.begin_trial(state, digest, 3))
    state = slots.change(states.commit)
    slots.collect()
    print(state.seq, digest, flush=True)
"""


def write_samples(
    folder: Path, make_bundle: Callable[[int], tuple[Bundle, Contents]], count: int
) -> None:
    for number in range(count):
        bundle, contents = make_bundle(number)
        sample = folder / str(number)
        sample.mkdir(parents=True)
        (sample / "manifest.json").write_bytes(bundle.manifest)
        (sample / "slice.json").write_bytes(bundle.slice)
        for role, body in contents.items():
            (sample / role).write_bytes(body)


def test_killed_process_loses_nothing_that_it_acknowledged(
    tmp_path: Path, make_bundle: Callable[[int], tuple[Bundle, Contents]]
) -> None:
    write_samples(tmp_path / "samples", make_bundle, 3)
    root = tmp_path / "models"
    command = [sys.executable, "-c", WRITER, str(root), str(tmp_path / "samples")]
    acknowledged = 0
    for pause_s in (0.0, 0.01, 0.025, 0.04, 0.06, 0.085, 0.11, 0.15):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            first = process.stdout.readline()
            time.sleep(pause_s)  # the kill shall hit any step
            process.kill()
            lines = (first + process.stdout.read()).splitlines()
        done = [line.split() for line in lines if line.count(" ") == 1]
        assert done, "the child did nothing"
        acknowledged += len(done)
        state = Slots(root).load()
        booted = Slots(root).boot()
        assert booted
        assert state.seq >= int(done[-1][0])
        assert state.seq > int(done[-1][0]) or booted.digest == done[-1][1]
    assert acknowledged >= 8
