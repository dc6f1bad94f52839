"""Manifests: canonical bytes, and refusal of all that is none."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimass_shared.errors import MalformedMessageError
from aimass_shared.manifest import (
    MAX_MANIFEST_BYTES,
    AlarmRule,
    Contract,
    FileRef,
    Manifest,
    Sensor,
    SliceEntry,
    TensorSpec,
    decode,
    encode,
    target_path,
)
from aimass_shared.slices import SliceCost, SliceSpec

CONTRACT = Contract(
    model="tep-monitor",
    sensors=(Sensor("XMEAS_01", "km3/h", "continuous", label="A feed"),),
    step_ms=180_000,
    window=16,
    horizon=4,
    inputs=(TensorSpec("values", "FP32", (-1, 16, 1)),),
    outputs=(TensorSpec("score", "FP32", (-1,)),),
    alarm=AlarmRule("score", 1.6, "contribution"),
)
ENTRY = SliceEntry(
    spec=SliceSpec(0.5, "int8"),
    cost=SliceCost(model_bytes=4, memory_mib=8.0, reference_ms=0.1, val_error=0.7),
    files=(FileRef("model", "model.onnx", "ab" * 32, 4),),
    tolerance=1e-3,
)
MANIFEST = Manifest("r-1", "tep-monitor", CONTRACT, (ENTRY,), created=1)


def test_a_manifest_reads_back_and_its_bytes_are_canonical() -> None:
    raw = encode(MANIFEST)
    assert decode(raw) == MANIFEST
    assert encode(decode(raw)) == raw


def test_slices_and_files_are_found_by_name_and_role() -> None:
    assert MANIFEST.entry("w0.50-int8") is ENTRY
    assert ENTRY.file("model").sha256 == "ab" * 32
    assert MANIFEST.offers() == {ENTRY.spec: ENTRY.cost}
    with pytest.raises(MalformedMessageError, match="no slice w1"):
        MANIFEST.entry("w1.00-fp32")
    with pytest.raises(MalformedMessageError, match="no train file"):
        ENTRY.file("train")


def test_the_target_path_names_channel_model_and_release() -> None:
    assert target_path("stable", "tep-monitor", "r-1") == "stable/tep-monitor/r-1.json"


def test_a_manifest_of_another_schema_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="schema 7"):
        decode(encode(msgspec.structs.replace(MANIFEST, schema=7)))


def test_a_manifest_of_the_first_schema_still_reads() -> None:
    first = encode(MANIFEST).replace(b'"schema":2', b'"schema":1').replace(b"val_error", b"val_mse")
    assert b"val_mse" in first
    assert decode(first) == MANIFEST


def test_a_manifest_over_the_limit_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="limit"):
        decode(b" " * (MAX_MANIFEST_BYTES + 1))


@given(st.integers(0, len(encode(MANIFEST)) - 1))
def test_a_cut_manifest_is_refused(length: int) -> None:
    with pytest.raises(MalformedMessageError):
        decode(encode(MANIFEST)[:length])


def test_a_model_without_sensors_takes_requests_only() -> None:
    texts = Contract(
        model="pairs",
        inputs=(TensorSpec("first", "BYTES", (-1,)), TensorSpec("second", "BYTES", (-1,))),
        outputs=(TensorSpec("match", "FP32", (-1,)),),
        task="match",
    )
    assert CONTRACT.telemetry
    assert CONTRACT.needs == ("model", "selftest")
    assert not texts.telemetry
    assert texts.needs == ("model", "selftest", "vocabulary")
    manifest = msgspec.structs.replace(MANIFEST, contract=texts)
    assert decode(encode(manifest)) == manifest


@pytest.mark.parametrize("kind", ["", "two words", "a/b", "x" * 65])
def test_the_kind_of_a_sensor_is_one_word(kind: str) -> None:
    contract = msgspec.structs.replace(CONTRACT, sensors=(Sensor("a", "", kind),))
    with pytest.raises(MalformedMessageError, match="kind"):
        decode(encode(msgspec.structs.replace(MANIFEST, contract=contract)))
