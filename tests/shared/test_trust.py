"""The rules that stand between a signed release and a running model."""

import hashlib
import itertools
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared import trust
from aimass_shared.errors import BadDigestError, ReleaseRollbackError, UnfitReleaseError
from aimass_shared.manifest import (
    AlarmRule,
    Contract,
    FileRef,
    Manifest,
    Sensor,
    SliceEntry,
    TensorSpec,
)
from aimass_shared.slices import Board, SliceCost, SliceSpec

BODY = b"weights" * 100
REF = FileRef("model", "model.onnx", hashlib.sha256(BODY).hexdigest(), len(BODY))
BOARD = Board("test-board", memory_mib=100, cpu_time_factor=2.0, window_budget_ms=10)
VERSIONS = st.dictionaries(st.sampled_from([*trust.TOP_ROLES, "channel-a"]), st.integers(1, 50))


def make_entry(**changes: object) -> SliceEntry:
    entry = SliceEntry(
        spec=SliceSpec(0.5, "int8"),
        cost=SliceCost(len(BODY), memory_mib=50, reference_ms=4, val_error=0.1),
        files=(REF, FileRef("selftest", "selftest.npz", "ab" * 32, 10)),
        tolerance=0.01,
    )
    return msgspec.structs.replace(entry, **changes)


def make_manifest(entry: SliceEntry) -> Manifest:
    contract = Contract(
        model="tep-monitor",
        sensors=(Sensor("A", "kPa", "continuous"), Sensor("B", "degC", "continuous")),
        step_ms=1000,
        window=16,
        horizon=4,
        inputs=(TensorSpec("values", "FP32", (-1, 16, 2)),),
        outputs=(TensorSpec("score", "FP32", (-1,)),),
        alarm=AlarmRule("score", 1.0, "contribution"),
    )
    return Manifest("r1", "tep-monitor", contract, (entry,), created=1)


@given(VERSIONS, VERSIONS, st.integers(0, 99), st.integers(0, 99))
def test_floor_never_sinks(
    before: dict[str, int], after: dict[str, int], then_ms: int, now_ms: int
) -> None:
    floor = trust.Floor("a", before, then_ms)
    seen = trust.Floor("a", after, now_ms)
    older = [role for role in after if after[role] < before.get(role, 0)]
    if older:
        with pytest.raises(ReleaseRollbackError, match=older[0]):
            trust.check_floor(floor, seen)
        return
    risen = trust.check_floor(floor, seen)
    assert risen.versions == before | after
    assert risen.time_ms == max(then_ms, now_ms)
    assert trust.check_floor(risen, seen) == risen


def test_floor_counts_for_its_own_anchor_only() -> None:
    seen = trust.Floor("other", {"timestamp": 1}, 5)
    assert trust.check_floor(trust.Floor("mine", {"timestamp": 9}, 50), seen) == seen


def test_clock_in_1970_is_overruled_by_what_signatures_vouch_for() -> None:
    assert trust.latest_time_ms(5, 1_700_000_000_000, 0) == 1_700_000_000_000
    assert trust.latest_time_ms(1_800_000_000_000, 1_700_000_000_000) == 1_800_000_000_000


@given(st.lists(st.integers(0, len(BODY)), max_size=4))
def test_blob_is_taken_in_any_pieces(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(BODY)]
    trust.verify_blob((BODY[a:b] for a, b in itertools.pairwise(edges)), REF)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (BODY[:-1], "699 bytes"),
        (BODY + b"x", "more than"),
        (BODY[:-1] + b"X", "SHA-256"),
        (b"", "0 bytes"),
    ],
)
def test_blob_that_is_not_the_signed_one(body: bytes, says: str) -> None:
    with pytest.raises(BadDigestError, match=says):
        trust.verify_blob([body], REF)


def test_endless_blob_is_left_at_the_first_byte_too_many() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 100

    with pytest.raises(BadDigestError):
        trust.verify_blob(endless(), REF)
    assert taken == len(BODY) // 100 + 1


def test_fit_slice_is_returned() -> None:
    entry = make_entry()
    manifest = make_manifest(entry)
    assert trust.check_fit(manifest, "w0.50-int8", BOARD, sensors=["B", "A", "C"]) == entry
    assert trust.check_fit(manifest, "w0.50-int8", BOARD, sensors=None) == entry


@pytest.mark.parametrize(
    ("entry", "name", "sensors", "says"),
    [
        (make_entry(), "w1.00-fp32", ["A", "B"], "no slice w1.00-fp32"),
        (make_entry(), "w0.50-int8", ["A"], "such as B"),
        (make_entry(files=(REF,)), "w0.50-int8", ["A", "B"], "no selftest file"),
        (make_entry(cost=SliceCost(1, 101, 1, 0)), "w0.50-int8", ["A", "B"], "101 MiB"),
        (
            make_entry(files=(REF, FileRef("selftest", "s", "../../etc/passwd", 1))),
            "w0.50-int8",
            ["A", "B"],
            "no SHA-256",
        ),
    ],
)
def test_unfit_slice_says_what_it_lacks(
    entry: SliceEntry, name: str, sensors: list[str], says: str
) -> None:
    with pytest.raises(UnfitReleaseError, match=says):
        trust.check_fit(make_manifest(entry), name, BOARD, sensors=sensors)


def test_unfit_precision() -> None:
    board = msgspec.structs.replace(BOARD, precisions=("fp32",))
    with pytest.raises(UnfitReleaseError, match=r"the board gives .* fp32"):
        trust.check_fit(make_manifest(make_entry()), "w0.50-int8", board, sensors=None)


def test_channel_holds_its_own_paths() -> None:
    trust.check_channel("stable", "stable/tep-monitor/r1.json")


@pytest.mark.parametrize(
    "path",
    [
        "beta/tep-monitor/r1.json",
        "stable/r1.json",
        "stable/a/b/c.json",
        "stable/../r1.json",
        "stable//r1.json",
        "/stable/a/r1.json",
        "stable/a/r 1.json",
        "",
    ],
)
def test_channel_refuses_other_paths(path: str) -> None:
    with pytest.raises(UnfitReleaseError):
        trust.check_channel("stable", path)


def test_blob_route_holds_a_digest_only() -> None:
    assert trust.blob_route("0" * 64) == "/blobs/" + "0" * 64
    for text in ("0" * 63, "0" * 65, "A" * 64, "../" + "0" * 61):
        with pytest.raises(BadDigestError):
            trust.blob_route(text)
