"""A session that takes and gives texts where its contract says so: a vocabulary around a model.

The graph of such a model has numbers only; see `aimass_shared.vocabulary`.
"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from aimass_edge.runtime.session import Arrays, Session, check_feeds
from aimass_shared.errors import MalformedMessageError, ModelLoadFailedError
from aimass_shared.manifest import BYTES, Contract, TensorSpec
from aimass_shared.vocabulary import Coder, coder_of

VOCABULARY_FILE = "vocabulary.json"


def coder_beside(model: Path, contract: Contract) -> Coder:
    """The coder of a slice: its vocabulary lies beside its model file, if it needs one.

    Raises:
        ModelLoadFailedError: it needs one, and there is none that can be used.
    """
    path = model.with_name(VOCABULARY_FILE)
    try:
        return coder_of(contract, path.read_bytes() if "vocabulary" in contract.needs else None)
    except OSError as error:
        raise ModelLoadFailedError(f"{path} cannot be read: {error.strerror}") from error
    except MalformedMessageError as error:
        raise ModelLoadFailedError(f"{path.name} cannot be used: {error.detail}") from error


class CodedSession:
    """A session with the tensors of its contract; it is inner's in everything else."""

    def __init__(self, inner: Session, contract: Contract, coder: Coder) -> None:
        self._inner = inner
        self._coder = coder
        self._inputs = _promised(inner.inputs, contract.inputs)
        self._outputs = _promised(inner.outputs, contract.outputs)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` needs, texts among them."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that `run` gives back, texts among them."""
        return self._outputs

    @property
    def provider(self) -> str:
        """What executes the model."""
        return self._inner.provider

    @property
    def waits(self) -> bool:
        """As the session within."""
        return self._inner.waits

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Run once; a number beyond the vocabulary is a ModelError."""
        check_feeds(self._inputs, feeds)
        return self._coder.decode(self._inner.run(self._coder.encode(feeds)))

    def close(self) -> None:
        """Free the model."""
        self._inner.close()


def _promised(
    found: tuple[TensorSpec, ...], contract: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    """What is found in the graph, with the contract's texts in the place of their numbers."""
    texts = {spec.name: spec for spec in contract if spec.datatype == BYTES}
    return tuple(texts.get(spec.name, spec) for spec in found)
