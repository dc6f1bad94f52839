"""Imports what no agent can do without, ONNX Runtime and numpy, and nothing else."""

import numpy as np
import onnxruntime

from benchmarks.children.lines import answer


def versions(_words: list[str]) -> dict[str, object]:
    """Proof that they are loaded."""
    return {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__}


if __name__ == "__main__":
    answer(versions)
