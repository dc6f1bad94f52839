"""Slices of a trained model: ONNX files for devices, checked, measured and self-testing.

Needs the extra `train` (torch).
"""

from aimass_cloud.slicing.making import RELEASE_SPECS, contract_of, make_slices
from aimass_cloud.slicing.preparing import prepare
from aimass_shared.manifest import SliceArtifact

__all__ = ["RELEASE_SPECS", "SliceArtifact", "contract_of", "make_slices", "prepare"]
