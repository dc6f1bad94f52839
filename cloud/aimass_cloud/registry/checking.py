"""What slices must have before a release of them is signed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aimass_shared.activations import CODECS
from aimass_shared.errors import BadUpdateError, ConflictError, InvalidSettingError, RequestError
from aimass_shared.fleet import unpack
from aimass_shared.inference import dtype_of
from aimass_shared.manifest import Contract, Role, SliceArtifact
from aimass_shared.planning.profiles import Candidate, ProfileSet, decode
from aimass_shared.slices import WHOLE, SliceSpec
from aimass_shared.vocabulary import coder_of


def check_slices(contract: Contract, slices: Sequence[SliceArtifact]) -> None:
    """Refuse slices that no device or coordinator could use.

    Raises:
        RequestError: there are none, or a file, a tensor or a plan is not as it must be.
        ConflictError: two slices are the same.
    """
    if not slices:
        raise RequestError("a release needs at least one slice: run `aimass slice` first")
    names = [artifact.spec.name for artifact in slices]
    if len(set(names)) != len(names):
        raise ConflictError(f"two slices have the same name: {', '.join(sorted(names))}")
    for artifact in slices:
        files = _files(contract, artifact)
        vocabulary = files.get("vocabulary")
        coder_of(contract, None if vocabulary is None else _read(vocabulary))
        _check_fleet(contract, files.get("fleet"))
        _check_halves(contract, artifact)
    _check_plans(slices)


def _files(contract: Contract, artifact: SliceArtifact) -> Mapping[Role, str]:
    roles = [role for role, _ in artifact.files]
    cut = artifact.spec.cut != WHOLE
    needed = {*contract.needs, *(("tail",) if cut else ())}
    if len(set(roles)) != len(roles) or not needed <= set(roles) or ("tail" in roles) != cut:
        raise RequestError(
            f"slice {artifact.spec.name} has the files {', '.join(roles) or 'none'}: it needs one"
            f" each of {', '.join(sorted(needed))}; a whole one may have one train and one fleet,"
            " and has no tail"
        )
    return dict(artifact.files)


def _check_fleet(contract: Contract, path: str | None) -> None:
    if path is None:
        return
    try:
        unpack(_read(path), tuple(sensor.name for sensor in contract.sensors))
    except BadUpdateError as error:
        raise RequestError(f"the fleet file does not fit: {error}; slice again") from error


def _check_halves(contract: Contract, artifact: SliceArtifact) -> None:
    """The head takes inputs of the model and gives some of its outputs; the tail gives the rest."""
    name, halves = artifact.spec.name, artifact.halves
    if artifact.spec.cut == WHOLE:
        if halves is not None or artifact.codec:
            raise RequestError(f"slice {name} is whole: it has no halves and no codec")
        return
    if halves is None or artifact.codec not in CODECS:
        raise RequestError(
            f"slice {name} is cut: it must say what crosses, in a codec of {', '.join(CODECS)}"
        )
    inputs, outputs = (
        {spec.name for spec in specs} for specs in (contract.inputs, contract.outputs)
    )
    crossing = [spec.name for spec in halves.crossing]
    if not set(halves.takes) <= inputs or not set(halves.early) < outputs:
        raise RequestError(
            f"slice {name}: its head takes {list(halves.takes)} and gives {list(halves.early)};"
            f" the model takes {sorted(inputs)} and gives {sorted(outputs)}"
        )
    if not crossing or len(set(crossing)) != len(crossing):
        raise RequestError(f"slice {name}: one tensor at least crosses, and none twice: {crossing}")
    for spec in halves.crossing:
        dtype_of(spec.datatype)


def _check_plans(slices: Sequence[SliceArtifact]) -> None:
    """All slices carry the same plans, which name slices of the release, or none carries any."""
    paths = [dict(artifact.files).get("plans") for artifact in slices]
    if not any(paths):
        return
    contents = {_read(path) if path else b"" for path in paths}
    if len(contents) != 1:
        raise RequestError("the slices of a release carry the same plans, all of them: slice again")
    known = {artifact.spec for artifact in slices}
    for profile in _profiles(contents.pop()).profiles:
        one = profile.candidate
        if _of(one) not in known:
            raise RequestError(f"the plans have {one.name}, which is no slice of the release")


def _profiles(raw: bytes) -> ProfileSet:
    try:
        return decode(raw, "the plans of the slices")
    except InvalidSettingError as error:
        raise RequestError(error.detail) from error


def _of(candidate: Candidate) -> SliceSpec:
    return SliceSpec(candidate.width, candidate.precision, candidate.cut)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"the file {Path(path).name} is gone: slice the model again") from error
