"""What can be typed after `aimass slice` besides the id of a model: work on files, done here."""

import argparse
from typing import Protocol

SLICE_VERBS = ("cuts", "split")
"""Second words of `aimass slice`; with any other it is about a model of the coordinator."""

CUTS = """\
examples:
  aimass slice cuts model.onnx                      what crosses, and its bytes a sample
  aimass slice cuts model.onnx --tensors 1          where a single tensor crosses
  aimass slice cuts bert.onnx --size sequence=128 --json
"""

SPLIT = """\
Writes head.onnx and tail.onnx, after all three were run on the same inputs.

examples:
  aimass slice split model.onnx --cut cut-relu_2-6d3f0b1a --out parts/
  aimass slice split model.onnx --cut mask,hidden --out parts/        by names of what crosses
  aimass slice split model.onnx --cut CUT --out parts/ --inputs samples.npz --json
"""


class _Add(Protocol):
    def __call__(self, name: str, *, about: str, examples: str) -> argparse.ArgumentParser: ...


def add_slice_verbs(add: _Add) -> None:
    """Add the commands. Their names have two words, which `parsed` joins."""
    listing = add("slice cuts", about="Where an ONNX file can be cut in two.", examples=CUTS)
    split = add("slice split", about="Cut an ONNX file in head and tail.", examples=SPLIT)
    for one, call in ((listing, "slice-cuts"), (split, "slice-split")):
        one.add_argument("file", help="ONNX file; weights in files beside it are found")
        one.add_argument("--tensors", type=int, default=3, help="that may cross, at most (3)")
        one.add_argument("--most", type=int, default=2000, help="cuts that are looked for (2000)")
        one.add_argument("--size", action="append", metavar="NAME=N", help="size of an axis")
        one.add_argument("--json", action="store_true", help="print JSON instead of a table")
        one.set_defaults(call=call)
    split.add_argument("--cut", required=True, help="its id, or the names of what crosses")
    split.add_argument("--out", required=True, metavar="DIRECTORY", help="where the parts go")
    split.add_argument("--inputs", help=".npz file to try them with (normal numbers)")
    split.add_argument("--seed", type=int, default=0, help="of the normal numbers (0)")
    split.add_argument("--tolerance", type=float, help="of the outputs (1e-5; 4e-3 in half)")
