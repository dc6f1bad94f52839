"""What a loaded model looks like to the agent, and the check of what is fed to it.

Nothing here knows a runtime: `aimass_edge.runtime.onnx` and `paced` implement `Session`, and every
implementation passes the same contract tests.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from aimass_shared.errors import BadTensorError
from aimass_shared.inference import check_inputs
from aimass_shared.manifest import TensorSpec

Arrays = Mapping[str, NDArray[Any]]
ANY_SIZE = -1


class Session(Protocol):
    """A model that is loaded and can run, from several threads at once."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` needs, all of them."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` gives back."""

    @property
    def provider(self) -> str:
        """What executes the model, such as `CPUExecutionProvider`."""

    @property
    def waits(self) -> bool:
        """Whether `run` may wait for something: then it must never run on an event loop."""

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run the model once over one batch.

        Raises:
            BadTensorError: a name, a type or a shape is not what `inputs` says.
            ModelError: the runtime failed although the inputs were right.
            NoActiveModelError: the session was closed.
        """

    def close(self) -> None:
        """Free the model; a second call does nothing."""


def check_feeds(specs: tuple[TensorSpec, ...], feeds: Arrays) -> None:
    """Refuse feeds that do not fit: every input present, none besides, types and shapes right.

    A first axis of any size is the batch, which all such inputs share.

    Raises:
        BadTensorError: the detail says what was expected.
    """
    check_inputs(specs, feeds)
    _check_batch(specs, feeds)


def windows_of(specs: tuple[TensorSpec, ...], feeds: Arrays) -> int:
    """How many windows (or texts, or pictures) feeds hold: the batch, 1 where there is none."""
    sizes = (feeds[spec.name].shape[0] for spec in specs if spec.shape[:1] == (ANY_SIZE,))
    return next(sizes, 1)


def describe(spec: TensorSpec) -> str:
    """A tensor in one word for a person, such as `values FP32[?,16,52]`."""
    sizes = ",".join("?" if size == ANY_SIZE else str(size) for size in spec.shape)
    return f"{spec.name} {spec.datatype}[{sizes}]"


def _check_batch(specs: tuple[TensorSpec, ...], feeds: Arrays) -> None:
    sizes = {s.name: feeds[s.name].shape[0] for s in specs if s.shape[:1] == (ANY_SIZE,)}
    if 0 in sizes.values():
        raise BadTensorError("inputs have an empty batch; send at least one window")
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise BadTensorError(f"inputs must have the same batch, but {told}")
