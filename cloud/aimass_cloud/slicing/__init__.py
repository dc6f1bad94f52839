"""Slices of a trained model: ONNX files for devices, checked, measured and self-testing.

Making them needs the extra `train` (torch), which is imported when a name below is first used;
`aimass_cloud.slicing.cuts` does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aimass_shared.manifest import SliceArtifact

if TYPE_CHECKING:
    from aimass_cloud.slicing.making import Sliced, contract_of, make_slices, sliced
    from aimass_cloud.slicing.preparing import prepare

__all__ = ["SliceArtifact", "Sliced", "contract_of", "make_slices", "prepare", "sliced"]

_HOMES = {
    "Sliced": "making",
    "contract_of": "making",
    "make_slices": "making",
    "prepare": "preparing",
    "sliced": "making",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  of any of those names
    """What needs torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
