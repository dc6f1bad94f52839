"""The tiny model of tests/edge/data: its contract, one request for it, and the answer's head."""

import json

import numpy as np

from aimass_shared.inference import HEADER_LENGTH, InferRequest, encode_request
from aimass_shared.manifest import AlarmRule, Contract, Sensor, TensorSpec

SHAPE = (1, 4, 3)
PATH = "/v2/models/tiny/infer"
OUTPUTS = {"forecast": (1, 2, 3), "score": (1,), "contribution": (1, 3)}
BYTES_OUT = 4 * sum(int(np.prod(shape)) for shape in OUTPUTS.values())
CONTRACT = Contract(
    model="tiny",
    sensors=tuple(Sensor(name, "bar", "continuous") for name in ("A", "B", "C")),
    step_ms=1000,
    window=4,
    horizon=2,
    inputs=tuple(TensorSpec(name, "FP32", (-1, *SHAPE[1:])) for name in ("values", "mask")),
    outputs=tuple(TensorSpec(name, "FP32", (-1, *shape[1:])) for name, shape in OUTPUTS.items()),
    alarm=AlarmRule("score", 10.0, "contribution", consecutive=3, top=2),
)


def request() -> bytes:
    """A whole HTTP request: one window as bytes, outputs as bytes."""
    values = np.full(SHAPE, 2.0, np.float32)
    inputs = {"values": values, "mask": np.ones_like(values)}
    body, headers = encode_request(InferRequest(model="tiny", inputs=inputs, binary_output=True))
    head = {"host": "127.0.0.1", **headers, "content-length": str(len(body))}
    lines = [f"POST {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def outputs_head() -> bytes:
    """Status, headers and JSON of an answer; the outputs' bytes follow."""
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in OUTPUTS.items()}
    told = json.dumps(
        {
            "model_name": "tiny",
            "model_version": "r1",
            "outputs": [
                {
                    "name": name,
                    "datatype": "FP32",
                    "shape": shape,
                    "parameters": {"binary_data_size": sizes[name]},
                }
                for name, shape in OUTPUTS.items()
            ],
        }
    ).encode()
    lines = [
        "HTTP/1.1 200 OK",
        "content-type: application/octet-stream",
        f"{HEADER_LENGTH}: {len(told)}",
        f"content-length: {len(told) + sum(sizes.values())}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + told
