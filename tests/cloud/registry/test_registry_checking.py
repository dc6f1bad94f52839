"""Cut slices and plans of a release: what they must have, and what is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aimass_cloud.registry import NewModel, Registry
from aimass_cloud.registry.checking import check_slices
from aimass_shared import manifest as manifests
from aimass_shared.errors import BadTensorError, NotFoundError, RequestError
from aimass_shared.manifest import Contract, Halves, SliceArtifact, TensorSpec
from aimass_shared.planning.profiles import Candidate, Profile, ProfileSet, encode
from aimass_shared.slices import SliceCost, SliceSpec

CUT = SliceSpec(1.0, "fp32", "cut-h-1")
HALVES = Halves(("values",), (TensorSpec("h", "FP32", (-1, 2)),), batched=True)
PLANS = ProfileSet(
    model="tep-monitor",
    profiles=(
        Profile(candidate=Candidate(1.0, "int8", "edge")),
        Profile(candidate=Candidate(1.0, "fp32", "split", CUT.cut, "int8")),
    ),
)

Change = Callable[[SliceArtifact], SliceArtifact]


@pytest.fixture
def cut(tmp_path: Path) -> SliceArtifact:
    """A cut slice beside those of the other fixture."""
    files = [("model", "head"), ("tail", "tail"), ("selftest", "vectors")]
    for _, name in files:
        (tmp_path / name).write_bytes(name.encode())
    return SliceArtifact(
        CUT,
        SliceCost(100, 20, 1.0, 0.5),
        tuple((role, str(tmp_path / name)) for role, name in files),  # type: ignore[misc]  # roles
        0.01,
        "int8",
        HALVES,
    )


def planned(path: Path, content: bytes) -> Change:
    """Adds a file of plans."""
    path.write_bytes(content)

    def change(artifact: SliceArtifact) -> SliceArtifact:
        return msgspec.structs.replace(artifact, files=(*artifact.files, ("plans", str(path))))

    return change


async def test_a_release_carries_halves_and_plans(
    registry: Registry,
    contract: Contract,
    artifacts: list[SliceArtifact],
    cut: SliceArtifact,
    tmp_path: Path,
) -> None:
    add = planned(tmp_path / "plans.json", encode(PLANS))
    model = await registry.add_model(NewModel("tep-monitor", "imported", 1, {}, str(tmp_path)))
    slices = [add(one) for one in (*artifacts, cut)]
    row = await registry.create_release(model.id, contract, slices, channel="stable")
    entry = manifests.decode(row.manifest).entry(CUT.name)
    assert (entry.halves, entry.codec) == (HALVES, "int8")
    assert "tail" not in [ref.role for ref in entry.carried]
    assert await registry.plans(row.id) == encode(PLANS)
    bare = await registry.create_release(model.id, contract, artifacts, channel="stable")
    with pytest.raises(NotFoundError, match="carries no plans"):
        await registry.plans(bare.id)


def halves(**changes: Any) -> Change:  # noqa: ANN401  # fields
    return lambda one: msgspec.structs.replace(
        one, halves=msgspec.structs.replace(HALVES, **changes)
    )


def fields(**changes: Any) -> Change:  # noqa: ANN401  # fields
    return lambda one: msgspec.structs.replace(one, **changes)


def without(role: str) -> Change:
    return lambda one: msgspec.structs.replace(
        one, files=tuple(file for file in one.files if file[0] != role)
    )


H = TensorSpec("h", "FP32", (-1, 2))
CASES: dict[str, tuple[Change, type[Exception], str]] = {
    "no tail": (without("tail"), RequestError, "needs one each of model, selftest, tail"),
    "a tail of a whole": (fields(spec=SliceSpec(1.0, "fp32")), RequestError, "has no tail"),
    "no halves": (fields(halves=None), RequestError, "must say what crosses"),
    "no codec": (fields(codec=""), RequestError, "a codec of none, fp16, int8"),
    "takes another": (halves(takes=("x",)), RequestError, "its head takes"),
    "gives another": (halves(early=("x",)), RequestError, "gives \\['x'\\]"),
    "leaves nothing": (halves(early=("score",)), RequestError, "gives \\['score'\\]"),
    "nothing crosses": (halves(crossing=()), RequestError, "at least crosses"),
    "one crosses twice": (halves(crossing=(H, H)), RequestError, "none twice"),
    "another type": (halves(crossing=(TensorSpec("h", "BF16", (-1,)),)), BadTensorError, "BF16"),
}


@pytest.mark.parametrize("name", CASES)
def test_halves_that_do_not_fit_are_refused(
    contract: Contract, artifacts: list[SliceArtifact], cut: SliceArtifact, name: str
) -> None:
    change, kind, said = CASES[name]
    with pytest.raises(kind, match=said):
        check_slices(contract, [*artifacts, change(cut)])


def test_a_whole_slice_has_no_halves(contract: Contract, artifacts: list[SliceArtifact]) -> None:
    odd = msgspec.structs.replace(artifacts[0], halves=HALVES)
    with pytest.raises(RequestError, match="is whole"):
        check_slices(contract, [odd])


def test_plans_are_the_same_in_all_slices_and_of_this_release(
    contract: Contract, artifacts: list[SliceArtifact], cut: SliceArtifact, tmp_path: Path
) -> None:
    add = planned(tmp_path / "a", encode(PLANS))
    other = planned(tmp_path / "b", encode(msgspec.structs.replace(PLANS, about="other")))
    none = planned(tmp_path / "c", b"{}")
    check_slices(contract, [add(one) for one in (*artifacts, cut)])
    for slices, said in (
        ([add(artifacts[0]), artifacts[1], cut], "the same plans"),
        ([add(artifacts[0]), other(artifacts[1])], "the same plans"),
        ([add(one) for one in artifacts], "split w1.00-fp32-cut-h-1 int8, which is no slice"),
        ([none(one) for one in artifacts], "the plans of the slices"),
    ):
        with pytest.raises(RequestError, match=said):
            check_slices(contract, slices)
