"""One model file, opened in ONNX Runtime and proven against its contract.

Blocking, and safe to call from any thread. Queues and deadlines are the batcher's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import onnxruntime as ort

from aimass_shared.errors import MalformedMessageError, ModelLoadFailedError
from aimass_shared.inference import Tensor, datatype_of, example, shape_fits
from aimass_shared.manifest import Contract
from aimass_shared.vocabulary import Coder, coder_of

_LOG_ERRORS_ONLY = 3


class OnnxSession:
    """A model that is ready to run; texts go through its vocabulary.

    Attributes:
        batchable: whether the first dimension of all inputs and outputs is the batch.
        inputs: of the graph: where the contract has texts, these are their numbers.
    """

    def __init__(
        self,
        session: Any,  # noqa: ANN401  # ORT has no types
        contract: Contract,
        coder: Coder,
    ) -> None:
        self._session = session
        self._coder = coder
        self._outputs = [spec.name for spec in contract.outputs]
        self.inputs = coder.inputs
        specs = (*contract.inputs, *contract.outputs)
        self.batchable = all(spec.shape[:1] == (-1,) for spec in specs)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the model once; the inputs were checked. Texts may come as their numbers."""
        texts = {name: array for name, array in inputs.items() if array.dtype == object}
        feeds = {**inputs, **self._coder.encode(texts)}
        values = cast("list[Tensor]", self._session.run(self._outputs, feeds))
        return self._coder.decode(dict(zip(self._outputs, values, strict=True)))


def open_session(
    path: Path, contract: Contract, threads: int, *, vocabulary: Path | None = None
) -> OnnxSession:
    """Open a model and prove it: its inputs and outputs are those of the contract, and it runs.

    Args:
        path: of an ONNX file.
        contract: what the release says of the model.
        threads: that one run may use.
        vocabulary: of the slice, if it has one.

    Raises:
        ModelLoadFailedError: the runtime refuses the file, or it is not what the contract says.
    """
    coder = coder_from(contract, vocabulary)
    raw = open_graph(path, threads)
    try:
        session = OnnxSession(raw, contract, coder)
        _check_names(raw, contract)
        for batch in (1, 2) if session.batchable else (1,):
            _check_outputs(session.run(example(contract.inputs, batch)), contract, batch)
    except ModelLoadFailedError:
        raise
    except Exception as error:  # ORT raises a dozen unrelated classes
        raise _refused(path, error) from error
    return session


def open_graph(path: Path, threads: int) -> Any:  # noqa: ANN401  # ORT has no types
    """A session of ONNX Runtime as the coordinator uses them.

    Raises:
        ModelLoadFailedError: the runtime refuses the file.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS_ONLY
    # Batches vary in size: an arena would keep the memory of the largest one for ever.
    options.enable_cpu_mem_arena = False
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ORT raises a dozen unrelated classes
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> ModelLoadFailedError:
    return ModelLoadFailedError(f"ONNX Runtime {ort.__version__} cannot run {path.name}: {error}")


def coder_from(contract: Contract, vocabulary: Path | None) -> Coder:
    """What stands between texts and numbers, with the vocabulary of a slice.

    Raises:
        ModelLoadFailedError: there is none that can be used, and the contract needs one.
    """
    try:
        return coder_of(contract, vocabulary.read_bytes() if vocabulary else None)
    except (OSError, MalformedMessageError) as error:
        raise ModelLoadFailedError(
            f"the vocabulary of {contract.model} cannot be used: {error}"
        ) from error


def _check_names(session: Any, contract: Contract) -> None:  # noqa: ANN401  # ORT has no types
    has = {node.name for node in session.get_inputs()}, {n.name for n in session.get_outputs()}
    inputs, outputs = (
        {spec.name for spec in specs} for specs in (contract.inputs, contract.outputs)
    )
    if has[0] != inputs or not outputs <= has[1]:
        raise ModelLoadFailedError(
            f"the model has inputs {sorted(has[0])} and outputs {sorted(has[1])}, its contract says"
            f" {sorted(inputs)} and {sorted(outputs)}; release it again"
        )


def _check_outputs(outputs: Mapping[str, Tensor], contract: Contract, batch: int) -> None:
    for spec in contract.outputs:
        array = outputs[spec.name]
        fits = shape_fits(spec, array.shape) and (spec.shape[:1] != (-1,) or len(array) == batch)
        if datatype_of(array) != spec.datatype or not fits:
            raise ModelLoadFailedError(
                f"output `{spec.name}` is {datatype_of(array)} {list(array.shape)} for {batch}"
                f" windows, its contract says {spec.datatype} {list(spec.shape)}; release it again"
            )
