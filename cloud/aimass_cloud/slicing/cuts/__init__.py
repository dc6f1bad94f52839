"""Cuts of any ONNX model: where it can be split, the two parts, and the proof that they fit.

    whole = read(Path("model.onnx"))
    cuts = cuts_of(whole)
    head, tail = split(whole, cuts.find("cut-relu_3-1f2e3a4b"))
    Reference(whole).agreement(head, tail).max_abs_error

Needs onnx and ONNX Runtime, no torch. `docs/slicing.md` has what is refused, ADR 15 has why.
"""

from aimass_cloud.slicing.cuts.listing import MOST_CUTS, MOST_TENSORS, Cut, Cuts, cuts_of
from aimass_cloud.slicing.cuts.parts import Part, split
from aimass_cloud.slicing.cuts.proving import (
    HALF_TOLERANCE,
    TOLERANCE,
    Agreement,
    Reference,
    demand,
    tolerance_of,
)
from aimass_cloud.slicing.cuts.reading import Whole, read, whole
from aimass_cloud.slicing.cuts.shapes import Crossing

__all__ = [
    "HALF_TOLERANCE",
    "MOST_CUTS",
    "MOST_TENSORS",
    "TOLERANCE",
    "Agreement",
    "Crossing",
    "Cut",
    "Cuts",
    "Part",
    "Reference",
    "Whole",
    "cuts_of",
    "demand",
    "read",
    "split",
    "tolerance_of",
    "whole",
]
