"""The plans of a release: every way to answer a request, measured, as one file in each slice."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from aimass_cloud.models.files import write_whole
from aimass_cloud.slicing.cutting import CutSlice, Progress
from aimass_cloud.slicing.profiling import Run, Subject, handed_off, in_cloud, on_edge
from aimass_shared.activations import ActivationCodec
from aimass_shared.errors import BadTensorError
from aimass_shared.manifest import SliceArtifact
from aimass_shared.planning.profiles import Candidate, Profile, ProfileSet, encode

FILE: Final = "plans.json"
ABOUT: Final = "one x86-64 core of the coordinator, ONNX Runtime, one sample a request"


@dataclass(frozen=True, eq=False)
class WholeSlice:
    """A slice with nothing cut off, and what runs it."""

    artifact: SliceArtifact
    run: Run


def planned(
    model: str,
    subject: Subject,
    slices: tuple[Sequence[WholeSlice], Sequence[CutSlice]],
    *,
    progress: Progress,
) -> ProfileSet:
    """All candidates of a model, measured: slices here, the whole there, both halves of each cut.

    Args:
        model: its name.
        subject: what it is measured on.
        slices: whole ones, the full model in float first; and cut ones.
        progress: told the fraction done and what is going on.
    """
    wholes, cut = slices
    found: list[Profile] = []
    for number, one in enumerate(wholes):
        progress(number / (1 + len(wholes) + len(cut)), f"measuring {one.artifact.spec.name}")
        spec = one.artifact.spec
        here = Candidate(spec.width, spec.precision, "edge")
        found.append(on_edge(subject, here, one.run, memory_mib=one.artifact.cost.memory_mib))
    found += in_cloud(subject, wholes[0].run)
    for number, half in enumerate(cut, 1 + len(wholes)):
        progress(number / (1 + len(wholes) + len(cut)), f"measuring {half.artifact.spec.name}")
        found += _splits(subject, half)
    return ProfileSet(model=model, profiles=tuple(found), about=ABOUT)


def with_plans(
    artifacts: Sequence[SliceArtifact], profiles: ProfileSet, folder: Path
) -> list[SliceArtifact]:
    """The slices, each with the file of all plans."""
    path = folder / FILE
    write_whole(path, encode(profiles))
    return [
        msgspec.structs.replace(one, files=(*one.files, ("plans", str(path)))) for one in artifacts
    ]


def _splits(subject: Subject, half: CutSlice) -> list[Profile]:
    """A cut with the codec that was chosen, and with none."""
    spec, memory = half.artifact.spec, half.artifact.cost.memory_mib
    codecs: list[ActivationCodec] = [half.tried.codec, "none"]
    found = []
    for codec in dict.fromkeys(codecs):
        one = Candidate(spec.width, spec.precision, "split", spec.cut, codec)
        try:
            found.append(handed_off(subject, one, half.way(codec), memory_mib=memory))
        except BadTensorError:  # numbers that the codec cannot hold
            continue
    return found
