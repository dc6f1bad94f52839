"""TensorRT engines of slices, built without a GPU; devices build theirs with their own TensorRT."""

from pathlib import Path

import pytest

MOST_BATCH = 64


def engine_bytes(model: Path) -> int:
    """The size of the engine of an ONNX file, for any batch up to 64; fails where there is none."""
    rtx = pytest.importorskip("tensorrt_rtx")
    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.ERROR))
    parsed = parser.parse(model.read_bytes())
    assert parsed, [str(parser.get_error(number)) for number in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *rest), (1, *rest), (MOST_BATCH, *rest))
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(rtx.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return int(engine.nbytes)
