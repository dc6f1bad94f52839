"""What can be typed after `aimass slice` besides the id of a model: work on files."""

import argparse
from collections.abc import Sequence
from typing import Protocol

SLICE_VERBS = ("cuts", "split", "plan", "check", "import", "list", "compare")
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

CHECK = """\
Builds an engine for any size of a batch, without a GPU, for the architectures that it names.

examples:
  aimass slice check model.onnx                     builds, or refused (operator: reason)
  aimass slice check yolo.onnx --size height=640 --size width=640 --json
"""

IMPORT = """\
Sends an ONNX file, with the files beside it that hold its weights, to the coordinator. There a
process of its own looks at it, proves its slices and measures them; docs/slicing.md says how, and
what is refused. Without samples normal numbers stand in for them.

examples:
  aimass slice import mobilenet.onnx
  aimass slice import mobilenet.onnx --samples pictures.npz --labels ok,scratch,dent
  aimass slice import bert.onnx --name reports --size sequence=128 --cuts 5
  aimass slice import yolo.onnx --channel stable --json     sign a release of it at once
"""

LIST = """\
examples:
  aimass slice list MODEL                           bytes, error, time here and on every board
  aimass slice list MODEL --json                    with releases, lineage and tolerances
"""

COMPARE = """\
With one model, each slice beside the full one in float; with two, slices of the same name.

examples:
  aimass slice compare MODEL
  aimass slice compare MODEL --board raspberry-pi-5 --png slices.png
  aimass slice compare MODEL OLDER_MODEL            what a new model changes
"""

PLAN = """\
Ranks what a file of measured profiles offers by expected goodput: accuracy times the probability to
be in time, at the rate that is asked for. docs/planning.md has the layout of the file.

examples:
  aimass slice plan --example                       a file of profiles, to begin with
  aimass slice plan --profiles p.json --link 4mbit,30ms --deadline-ms 150 --explain
  aimass slice plan --profiles p.json --slowdown 10 --rate 20 --memory-mib 128 --json
  aimass slice plan --profiles p.json --link 4mbit,30ms,1% --png plans.png --table plans.json
  aimass slice plan --release RELEASE --link 4mbit,30ms    what the coordinator measured
"""


class _Add(Protocol):
    def __call__(
        self,
        name: str,
        *,
        about: str,
        examples: str,
        parents: Sequence[argparse.ArgumentParser] = (),
    ) -> argparse.ArgumentParser: ...


def add_slice_verbs(add: _Add, connection: argparse.ArgumentParser) -> None:
    """Add the commands. Their names have two words, which `parsed` joins.

    Args:
        add: makes one.
        connection: options of those that speak to a coordinator.
    """
    listing = add("slice cuts", about="Where an ONNX file can be cut in two.", examples=CUTS)
    split = add("slice split", about="Cut an ONNX file in head and tail.", examples=SPLIT)
    for one, call in ((listing, "slice-cuts"), (split, "slice-split")):
        one.add_argument("file", help="ONNX file; weights in files beside it are found")
        one.add_argument("--tensors", type=int, default=3, help="that may cross, at most (3)")
        one.add_argument("--most", type=int, default=2000, help="cuts that are looked for (2000)")
        one.add_argument("--size", action="append", metavar="NAME=N", help="size of an axis")
        one.add_argument("--inputs", help=".npz file to run it with (normal numbers)")
        one.add_argument("--json", action="store_true", help="print JSON instead of a table")
        one.set_defaults(call=call)
    split.add_argument("--cut", required=True, help="its id, or the names of what crosses")
    split.add_argument("--out", required=True, metavar="DIRECTORY", help="where the parts go")
    split.add_argument("--seed", type=int, default=0, help="of the normal numbers (0)")
    split.add_argument("--tolerance", type=float, help="of the outputs (1e-5; 4e-3 in half)")
    _add_check(add("slice check", about="Whether TensorRT builds an ONNX file.", examples=CHECK))
    about = "Rank plans for a device and a link."
    _add_plan(add("slice plan", about=about, examples=PLAN, parents=[connection]))
    _add_views(add, connection)
    about = "Bring an ONNX model of your own: slices, proofs and plans."
    _add_import(add("slice import", about=about, examples=IMPORT, parents=[connection]))


def _add_views(add: _Add, connection: argparse.ArgumentParser) -> None:
    about = "The slices of a model, with what they cost."
    listing = add("slice list", about=about, examples=LIST, parents=[connection])
    listing.add_argument("model", help="id of the model")
    listing.set_defaults(call="slice-list")
    about = "Slices of one or two models beside each other."
    compare = add("slice compare", about=about, examples=COMPARE, parents=[connection])
    compare.add_argument("model", help="id of the model")
    compare.add_argument("other", nargs="?", default="", help="id of the one to compare it with")
    compare.add_argument("--board", default="", help="take times of this board (the coordinator's)")
    compare.add_argument("--png", metavar="FILE", help="draw error over time")
    compare.set_defaults(call="slice-compare")


def _add_import(bring: argparse.ArgumentParser) -> None:
    bring.add_argument("file", help="ONNX file; weights in files beside it are sent too")
    bring.add_argument("--name", help="of the model (the name of the file)")
    bring.add_argument("--samples", metavar="FILE", help=".npz file with an array for each input")
    bring.add_argument("--labels", default="", help="of classes: a,b,c, or @FILE with a line each")
    bring.add_argument("--size", action="append", metavar="NAME=N", help="size of an open axis")
    bring.add_argument("--cuts", type=int, default=3, help="cut slices, at most (3)")
    bring.add_argument(
        "--for",
        dest="classes",
        choices=("cpu", "tensorrt"),
        nargs="+",
        help="devices that slices are for (both)",
    )
    bring.add_argument("--channel", default="", help="release it to these devices at once")
    bring.set_defaults(call="slice-import")


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument("file", help="ONNX file; weights in files beside it are found")
    check.add_argument("--batch", type=int, default=64, help="largest, where it may be any (64)")
    check.add_argument("--size", action="append", metavar="NAME=N", help="size of another axis")
    check.add_argument("--deadline-s", type=float, default=120.0, help="to build it in (120)")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check.set_defaults(call="slice-check")


def _add_plan(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("--profiles", metavar="FILE", help="JSON of what was measured")
    plan.add_argument("--release", help="plans of this release, from the coordinator")
    plan.add_argument("--link", default="none", help="as 4mbit,30ms or 4mbit,30ms,1%% (none)")
    plan.add_argument("--deadline-ms", type=float, default=150.0, help="of a request (150)")
    plan.add_argument("--rate", type=float, default=0.0, help="requests a second (0: seldom)")
    plan.add_argument("--max-loss", type=float, default=1.0, help="accuracy budget, a share (1)")
    device = plan.add_argument_group("device and what is ahead")
    device.add_argument("--slowdown", type=float, default=1.0, help="against the reference (1)")
    device.add_argument("--memory-mib", type=float, default=1e6, help="for models (no limit)")
    device.add_argument("--precision", action="append", help="that it runs (a processor's)")
    device.add_argument("--edge-queue-ms", type=float, default=0.0, help="until it is free (0)")
    device.add_argument("--uplink-queue-ms", type=float, default=0.0, help="until it is free (0)")
    device.add_argument("--cloud-parallel", type=int, default=4, help="requests at once there (4)")
    plan.add_argument("--explain", action="store_true", help="say of each why it wins or loses")
    plan.add_argument("--png", metavar="FILE", help="draw what each takes")
    plan.add_argument("--table", metavar="FILE", help="write the table that goes to a device")
    plan.add_argument("--example", action="store_true", help="print a file of profiles and stop")
    plan.set_defaults(call="slice-plan")
