"""Installs on the disk, with one commit point: `state.json`, replaced whole.

    <root>/store/<digest>/{manifest.json, slice.json, model.onnx, selftest.npz, ...}
    <root>/incoming/<sha256>.part       downloads, kept to be resumed
    <root>/state.json                   "<crc32> {json}"; nothing counts before it says so

Order of an install: every file is written and flushed, its directory is flushed and renamed into
`store/`, which is flushed; only then may the state name it. The state is written beside itself,
flushed, renamed, and its directory flushed. (540 real power cuts on ext4 and xfs: nothing lost.)
Which step is allowed when is `state`'s; where bytes come from is `fetch`'s.
"""

import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aimass_edge.runtime import VOCABULARY_FILE
from aimass_edge.update import state as states
from aimass_edge.update.fs import Fs
from aimass_edge.update.state import State, Verdict
from aimass_shared import fleet, streaming
from aimass_shared.errors import (
    BadDigestError,
    MalformedMessageError,
    StateCorruptError,
    TrustError,
)
from aimass_shared.manifest import Manifest, Role, SliceEntry
from aimass_shared.manifest import decode as decode_manifest
from aimass_shared.messages import ReleaseRef
from aimass_shared.trust import verify_blob

log = logging.getLogger(__name__)

FILE_NAMES: Mapping[Role, str] = {
    "model": "model.onnx",
    "train": "train.onnx",
    "selftest": "selftest.npz",
    "vocabulary": VOCABULARY_FILE,
    "fleet": fleet.FILE,
    "plans": "plans.json",
    **streaming.FILES,
}
MANIFEST_FILE = "manifest.json"
CHUNK_BYTES = 1 << 20
CRC_DIGITS = 8


@dataclass(frozen=True)
class Installed:
    """A slice on this disk whose every byte was verified; `trial` until it has proved itself."""

    digest: str
    ref: ReleaseRef
    manifest: Manifest
    entry: SliceEntry
    directory: Path
    trial: bool = False

    def file(self, role: Role) -> Path:
        """Where the file with a role is."""
        return self.directory / FILE_NAMES[role]


@dataclass(frozen=True)
class Bundle:
    """Two documents that say what an install is; its files follow from them."""

    manifest: bytes
    slice: bytes

    @property
    def digest(self) -> str:
        """Name of the install. The length keeps the two documents apart."""
        head = len(self.manifest).to_bytes(8, "big")
        return hashlib.sha256(head + self.manifest + self.slice).hexdigest()

    def read(self) -> tuple[ReleaseRef, Manifest, SliceEntry]:
        """What the documents say.

        Raises:
            MalformedMessageError: they do not decode.
        """
        try:
            ref = msgspec.json.decode(self.slice, type=ReleaseRef)
        except msgspec.DecodeError as error:
            raise MalformedMessageError(f"slice.json does not decode: {error}") from error
        manifest = decode_manifest(self.manifest)
        return ref, manifest, manifest.entry(ref.slice)


def bundle_of(ref: ReleaseRef, manifest: bytes) -> Bundle:
    """The documents of a slice of a verified release."""
    return Bundle(manifest, msgspec.json.encode(ref))


class Slots:
    """The installs below `root`. Blocks on the disk; one writer at a time."""

    def __init__(self, root: Path, fs: Fs | None = None) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self._store = root / "store"
        self._state = root / "state.json"
        self.fs = fs or Fs()

    def prepare(self) -> None:
        """Make the directories; may run any number of times."""
        for path in (self.root, self._store, self.incoming):
            if not path.is_dir():
                self.fs.mkdir(path)
                self.fs.fsync_dir(path.parent)

    def load(self) -> State:
        """The state; a device that has none yet gets an empty one.

        Raises:
            StateCorruptError: the file is damaged.
        """
        try:
            raw = self._state.read_bytes()
        except FileNotFoundError:
            return State()
        crc, body = raw[:CRC_DIGITS], raw[CRC_DIGITS + 1 :]
        try:
            if int(crc, 16) == zlib.crc32(body):
                return msgspec.json.decode(body, type=State)
        except ValueError:  # includes msgspec's DecodeError
            log.debug("state file does not parse")
        raise StateCorruptError(
            f"{self._state} is damaged: it is set aside at the next start, and the device asks"
            " for its release again"
        )

    def change(self, step: Callable[[State], State]) -> State:
        """Take one step and make it durable: the only place that commits anything.

        Raises:
            StateCorruptError: the file is damaged.
        """
        before = self.load()
        after = step(before)
        if after == before:
            return before
        after = msgspec.structs.replace(after, seq=before.seq + 1)
        body = msgspec.json.encode(after)
        fresh = self.root / "state.json.new"
        self.fs.write(fresh, b"%08x " % zlib.crc32(body) + body)
        self.fs.fsync(fresh)
        self.fs.rename(fresh, self._state)
        self.fs.fsync_dir(self.root)
        return after

    def boot(self) -> Installed | None:
        """What to load now; an attempt of a trial is spent, durably, before this returns.

        Raises:
            StateCorruptError: the state is damaged, and the disk refuses to set it aside.
        """
        try:
            self.prepare()
            self._set_aside_damaged_state()
            state = self.change(states.spend_attempt)
        except OSError:
            # A full or read-only disk stops updates, not predictions. An attempt that cannot be
            # spent is not made.
            log.exception("cannot write below %s: starting what is active", self.root)
            return self.settled()
        if state.trial is not None:
            found = self.find(state.trial.digest, trial=True)
            if found is not None:
                return found
            self.change(states.end_trial)
        return self.settled()

    def settled(self) -> Installed | None:
        """The active install, or the previous one if the active one is damaged."""
        state = self.load()
        return self.find(state.active) or self.find(state.previous)

    def find(self, digest: str, *, trial: bool = False) -> Installed | None:
        """An install, if it is there and every byte of it is right."""
        if not digest or not (self._store / digest).is_dir():
            return None
        try:
            return self._verify(digest, trial=trial)
        except (OSError, TrustError, MalformedMessageError) as error:
            log.warning("install %.12s cannot be used: %s", digest, error)
            return None

    def install(self, bundle: Bundle, parts: Mapping[Role, Path]) -> Installed:
        """Move verified downloads into the store; commits nothing.

        Raises:
            BadDigestError: what is in the store now is not what was meant.
        """
        digest = bundle.digest
        fresh = self._store / f".new-{digest}"
        self.fs.remove(fresh)
        self.fs.mkdir(fresh)
        # Documents first: when the disk is full, the downloads are still where they can be resumed.
        for name, data in ((MANIFEST_FILE, bundle.manifest), ("slice.json", bundle.slice)):
            self.fs.write(fresh / name, data)
            self.fs.fsync(fresh / name)
        for role, part in parts.items():
            self.fs.fsync(part)
            self.fs.rename(part, fresh / FILE_NAMES[role])
        self.fs.fsync_dir(fresh)
        self.fs.remove(self._store / digest)
        self.fs.rename(fresh, self._store / digest)
        self.fs.fsync_dir(self._store)
        return self._verify(digest, trial=True)

    def reject(self, digest: str, verdict: Verdict) -> None:
        """Never take an install again, and go back to what ran before."""
        self.change(lambda state: states.condemn(state, digest, verdict))

    def collect(self) -> None:
        """Remove the installs that the state does not name."""
        keep = self.load().keeps()
        for path in self._store.iterdir():
            if path.name not in keep:
                self.fs.remove(path)

    def _set_aside_damaged_state(self) -> None:
        """A device that nobody stands beside must start: what was damaged is kept to be looked at.

        The version floor is lost with it; python-tuf's own metadata still holds one.
        """
        try:
            self.load()
        except StateCorruptError:
            log.exception("starting without a model")
            self.fs.rename(self._state, self.root / "state.json.damaged")
            self.fs.fsync_dir(self.root)

    def _verify(self, digest: str, *, trial: bool) -> Installed:
        directory = self._store / digest
        signed = (directory / MANIFEST_FILE).read_bytes()
        bundle = Bundle(signed, (directory / "slice.json").read_bytes())
        if bundle.digest != digest:
            raise BadDigestError(f"the documents in {directory} are damaged")
        ref, manifest, entry = bundle.read()
        for file in entry.carried:
            verify_blob(_chunks(directory / FILE_NAMES[file.role]), file)
        return Installed(digest, ref, manifest, entry, directory, trial)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            yield chunk
