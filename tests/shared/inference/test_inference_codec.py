"""The bodies of the Open Inference Protocol: every type there and back, every lie refused."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from aimass_shared.errors import BadTensorError, MalformedMessageError
from aimass_shared.inference import (
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    Parameter,
    Tensor,
    WantedOutput,
    batch_size,
    check_inputs,
    check_outputs,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    example,
)
from aimass_shared.manifest import TensorSpec

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0)
numbers: st.SearchStrategy[Tensor] = st.sampled_from(DTYPES).flatmap(
    lambda dtype: npst.arrays(np.dtype(dtype), SHAPES)
)
texts: st.SearchStrategy[Tensor] = npst.arrays(np.dtype(object), SHAPES, elements=st.text())
arrays = numbers | texts
finite_arrays = texts | numbers.filter(lambda array: bool(np.isfinite(array.astype(float)).all()))
named = st.dictionaries(st.text(max_size=8), arrays, min_size=1, max_size=4)


def _same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and _bytes(left) == _bytes(right)


def _bytes(array: Tensor) -> object:
    return array.tolist() if array.dtype == object else array.tobytes()


def _request(**inputs: Tensor) -> InferRequest:
    return InferRequest(model="m", inputs=inputs)


def _json(*inputs: dict[str, object], **rest: object) -> bytes:
    return msgspec.json.encode({"inputs": inputs, **rest})


def _decode(body: bytes, header_length: int | None = None) -> InferRequest:
    return decode_request(body, header_length, model="m")


@given(
    inputs=named,
    binary=st.booleans(),
    deadline_ms=st.none() | st.integers(1, 600_000),
    identity=st.text(max_size=5),
)
def test_a_request_arrives_as_it_was_sent(
    *, inputs: dict[str, Tensor], binary: bool, deadline_ms: int | None, identity: str
) -> None:
    wanted = (WantedOutput("a"), WantedOutput("b", binary=True))
    parameters: dict[str, Parameter] = {"priority": 1, "who": "x"}
    body, headers = encode_request(
        InferRequest(
            model="m",
            inputs=inputs,
            id=identity,
            deadline_ms=deadline_ms,
            outputs=wanted,
            binary_output=binary,
            parameters=parameters,
        )
    )
    got = _decode(body, int(headers[HEADER_LENGTH]))
    assert got.inputs.keys() == inputs.keys()
    assert all(_same(got.inputs[name], inputs[name]) for name in inputs)
    assert (got.id, got.deadline_ms, got.binary_output) == (identity, deadline_ms, binary)
    assert (got.outputs, got.parameters) == (wanted, parameters)


@given(
    outputs=st.dictionaries(st.text(max_size=8), finite_arrays, max_size=4), binary=st.booleans()
)
def test_a_response_arrives_as_it_was_sent(*, outputs: dict[str, Tensor], binary: bool) -> None:
    request = InferRequest(model="m", inputs={}, id="7", binary_output=binary)
    parameters: dict[str, Parameter] = {"place": "cloud", "service_ms": 1.5}
    answer = InferResponse(model="m", version="2", outputs=outputs, parameters=parameters)
    body, length = encode_response(request, answer)
    got = decode_response(body, length)
    assert (length is not None) == (binary and bool(outputs))
    assert got.outputs.keys() == outputs.keys()
    assert all(np.array_equal(got.outputs[name], outputs[name]) for name in outputs)
    assert all(got.outputs[name].dtype == outputs[name].dtype for name in outputs)
    assert (got.model, got.version, got.id, got.parameters) == ("m", "2", "7", parameters)


@given(finite_arrays.filter(lambda array: array.ndim > 0 and array.size > 0))
def test_json_data_may_be_flat_or_nested(array: Tensor) -> None:
    body, _ = encode_response(
        _request(), InferResponse(model="m", version="", outputs={"x": array})
    )
    tensor = msgspec.json.decode(body)["outputs"][0]
    nested = {**tensor, "data": array.tolist()}
    for spelled in (tensor, nested):
        assert np.array_equal(_decode(_json(spelled)).inputs["x"], array)


@given(st.binary(max_size=200), st.none() | st.integers(-5, 250))
def test_any_bytes_are_decoded_or_refused(raw: bytes, header_length: int | None) -> None:
    for decode in (_decode, decode_response):
        with pytest.raises((MalformedMessageError, BadTensorError)):
            decode(raw, header_length)


@given(named, st.data())
def test_a_damaged_body_is_decoded_or_refused(
    inputs: dict[str, Tensor], data: st.DataObject
) -> None:
    body, headers = encode_request(InferRequest(model="m", inputs=inputs))
    length = int(headers[HEADER_LENGTH])
    place = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:place] + bytes([data.draw(st.integers(0, 255))]) + body[place + 1 :]
    try:
        got = _decode(damaged, length)
    except (MalformedMessageError, BadTensorError):
        return
    assert all(isinstance(array, np.ndarray) for array in got.inputs.values())


@pytest.mark.parametrize("missing", [1, 4])
def test_a_body_that_is_cut_short_or_too_long_is_refused(missing: int) -> None:
    body, headers = encode_request(_request(x=np.zeros(4, np.float32)))
    length = int(headers[HEADER_LENGTH])
    with pytest.raises(BadTensorError, match="is 16 bytes; binary_data_size says 16, the body has"):
        _decode(body[:-missing], length)
    with pytest.raises(BadTensorError, match="has 17 bytes of tensor data, the tensors claim 16"):
        _decode(body + b"\0", length)


def test_binary_tensors_are_views_of_the_body_where_they_lie_aligned() -> None:
    body, headers = encode_request(_request(x=np.arange(8, dtype=np.float64)))
    array = _decode(body, int(headers[HEADER_LENGTH])).inputs["x"]
    assert array.flags.aligned
    assert not array.flags.owndata
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))


def test_tensors_at_odd_places_are_copied_to_aligned_memory() -> None:
    inputs: dict[str, Tensor] = {"a": np.ones(3, np.uint8), "b": np.arange(4, dtype=np.float64)}
    body, headers = encode_request(_request(**inputs))
    array = _decode(body, int(headers[HEADER_LENGTH])).inputs["b"]
    assert array.flags.aligned
    assert np.array_equal(array, inputs["b"])


def test_big_endian_and_strided_arrays_are_sent_right() -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4).T
    body, headers = encode_request(_request(x=array))
    assert np.array_equal(_decode(body, int(headers[HEADER_LENGTH])).inputs["x"], array)


TENSOR: dict[str, object] = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}


def test_integers_are_numbers_too() -> None:
    assert _decode(_json(TENSOR)).inputs["x"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"datatype": "BYTES"}, "Expected `str`, got `int`"),
        ({"datatype": "BYTES", "data": ["a", None]}, "Expected `str`, got `null`"),
        ({"datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["b", "c"]]}, "differ in length"),
        ({"datatype": "BF16"}, "BF16 is not supported"),
        ({"shape": [3]}, r"shape \[3\] does not fit data of shape \[2\]"),
        ({"shape": [-1]}, r"shape \[-1\] must have at most 8 dimensions, none negative"),
        ({"shape": [1] * 9}, "must have at most 8 dimensions"),
        ({"shape": [2**32, 2**32]}, "does not fit data"),
        ({"shape": [2**31, 0, 2**31], "data": []}, "is too large"),
        ({"data": [1, "2"]}, "Expected `float`, got `str`"),
        ({"data": [1, True]}, "Expected `float`, got `bool`"),
        ({"data": [1, None]}, "Expected `float`, got `null`"),
        ({"data": [1, 1e39]}, "too large for FP32"),
        ({"data": [[1], [2]]}, "flat or nested like shape"),
        ({"shape": [2, 2], "data": [[1, 2], [3]]}, "inhomogeneous"),
        ({"shape": [2, 1], "data": [[1, 2]]}, "does not fit"),
        ({"data": 5}, "flat or nested like shape"),
        ({"data": {}}, "flat or nested like shape"),
        ({"datatype": "UINT8", "data": [1, 256]}, "out of bounds"),
        ({"datatype": "INT64", "data": [1, 2**70]}, "UINT64|INT64|out of"),
        ({"datatype": "INT32", "data": [1, 1.5]}, "Expected `int`, got `float`"),
        ({"parameters": {"binary_data_size": 8}}, "both data and binary_data_size"),
        ({"parameters": {"binary_data_size": True}}, "must be a whole number"),
        ({"parameters": {"binary_data_size": -8}}, "must be a whole number"),
    ],
)
def test_a_tensor_that_lies_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(BadTensorError, match=said):
        _decode(_json(TENSOR | change))


def test_a_tensor_without_data_is_refused() -> None:
    with pytest.raises(BadTensorError, match="neither data nor binary_data_size"):
        _decode(_json({"name": "x", "datatype": "FP32", "shape": [2]}))


def test_a_shape_whose_product_overflows_is_refused() -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [2**31, 2**31, 4]}
    body = _json(tensor | {"parameters": {"binary_data_size": 0}})
    with pytest.raises(BadTensorError, match=f"is {2**66} bytes; binary_data_size says 0"):
        _decode(body, len(body))


def test_a_tensor_that_comes_twice_is_refused() -> None:
    with pytest.raises(BadTensorError, match="`x` comes twice"):
        _decode(_json(TENSOR, TENSOR))


def test_too_many_tensors_are_refused() -> None:
    with pytest.raises(BadTensorError, match="65 tensors in one body, the limit is 64"):
        _decode(_json(*[TENSOR | {"name": str(number)} for number in range(65)]))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}', "malformed"),
        (b"{}", "missing required field `inputs`"),
        (b"[" * 100_000, "does not decode"),
        (_json(TENSOR, parameters={"deadline_ms": 0}), "deadline_ms must be a whole number"),
        (_json(TENSOR, parameters={"deadline_ms": 1.5}), "deadline_ms must be a whole number"),
        (_json(TENSOR, parameters={"deadline_ms": 10**9}), "from 1 to 600000"),
        (_json(TENSOR, parameters={"binary_data_output": 1}), "must be true or false"),
        (_json(TENSOR, parameters={"nested": {}}), "does not decode"),
    ],
)
def test_a_request_that_is_none_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(MalformedMessageError, match=said):
        _decode(body)


@pytest.mark.parametrize("length", [-1, 10**6])
def test_a_header_length_beyond_the_body_is_refused(length: int) -> None:
    with pytest.raises(MalformedMessageError, match="header-content-length"):
        _decode(_json(TENSOR), length)


def _answer(request: InferRequest, **outputs: Tensor) -> tuple[bytes, int | None]:
    return encode_response(request, InferResponse(model="m", version="1", outputs=outputs))


def test_only_the_wanted_outputs_are_sent_each_as_it_is_wanted() -> None:
    wanted = (WantedOutput("b", binary=True), WantedOutput("c", binary=False))
    request = InferRequest(model="m", inputs={}, outputs=wanted)
    body, length = _answer(request, a=np.zeros(1), b=np.ones(2), c=np.ones(3))
    head = msgspec.json.decode(body[:length])
    assert [output["name"] for output in head["outputs"]] == ["b", "c"]
    assert ["data" in output for output in head["outputs"]] == [False, True]
    assert decode_response(body, length).outputs["b"].tolist() == [1.0, 1.0]


def test_an_output_that_the_model_does_not_have_is_refused_by_name() -> None:
    request = InferRequest(model="m", inputs={}, outputs=(WantedOutput("z"),))
    with pytest.raises(BadTensorError, match=r"no outputs \['z'\]; the model has a, b"):
        check_outputs(request, ("b", "a"))
    with pytest.raises(BadTensorError, match="the model has a"):
        _answer(request, a=np.zeros(1))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_carry_goes_as_bytes_only(value: float) -> None:
    array = np.array([value], np.float32)
    with pytest.raises(BadTensorError, match="ask for binary"):
        _answer(InferRequest(model="m", inputs={}), x=array)
    body, length = _answer(InferRequest(model="m", inputs={}, binary_output=True), x=array)
    assert np.array_equal(decode_response(body, length).outputs["x"], array, equal_nan=True)


TEXTS = {"name": "x", "datatype": "BYTES", "shape": [2]}


@pytest.mark.parametrize(
    ("chunk", "said"),
    [
        (b"\1\0\0\0a", "5 bytes are not 2 texts"),
        (b"\1\0\0\0a\2\0\0\0b", "10 bytes are not 2 texts"),
        (b"\1\0\0\0a\1\0\0\0bc", "11 bytes are not 2 texts"),
        (b"\xff\xff\xff\xffabcd", "8 bytes are not 2 texts"),
        (b"\1\0\0\0a\1\0\0\0\xff", "a text is not UTF-8"),
        (b"\1\0\0\0a\0\0", "7 bytes are not 2 texts"),
    ],
)
def test_bytes_that_are_no_texts_are_refused(chunk: bytes, said: str) -> None:
    json = _json(TEXTS | {"parameters": {"binary_data_size": len(chunk)}})
    with pytest.raises(BadTensorError, match=said):
        _decode(json + chunk, len(json))


def test_texts_whose_number_or_size_is_a_lie_cost_nothing() -> None:
    json = _json(TEXTS | {"shape": [2**40], "parameters": {"binary_data_size": 4}})
    with pytest.raises(BadTensorError, match="4 bytes are not 1099511627776 texts"):
        _decode(json + bytes(4), len(json))
    json = _json(TEXTS | {"parameters": {"binary_data_size": 9}})
    with pytest.raises(BadTensorError, match="binary_data_size says 9, the body has 8"):
        _decode(json + bytes(8), len(json))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array(["a"]), "cannot be sent; use BOOL"),
        (np.array([b"a"], object), "an element is a bytes, not a text"),
        (np.array(["\ud800"], object), "a text cannot be sent"),
    ],
)
def test_what_is_no_text_cannot_be_sent(array: Tensor, said: str) -> None:
    with pytest.raises(BadTensorError, match=said):
        encode_request(_request(x=array))
    with pytest.raises(BadTensorError, match=said):
        _answer(InferRequest(model="m", inputs={}), x=array)


def test_an_example_is_zeros_and_empty_texts() -> None:
    made = example((TensorSpec("x", "INT64", (-1, 2)), TensorSpec("t", "BYTES", (-1,))), 3)
    assert (made["x"].tolist(), made["x"].dtype) == ([[0, 0]] * 3, np.dtype(np.int64))
    assert made["t"].tolist() == ["", "", ""]


SPECS = (TensorSpec("values", "FP32", (-1, 4, 3)), TensorSpec("mask", "FP32", (-1, 4, 3)))


def _inputs(shape: tuple[int, ...], dtype: str = "f4") -> dict[str, Tensor]:
    return {"values": np.zeros(shape, dtype), "mask": np.ones(shape, dtype)}


def test_inputs_that_fit_pass() -> None:
    check_inputs(SPECS, _inputs((5, 4, 3)))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (
            {"values": np.zeros((1, 4, 3), "f4")},
            r"not those of the model: `values` FP32 \[-1, 4, 3\]",
        ),
        (_inputs((1, 4, 2)), r"`values` is FP32 \[1, 4, 2\], expected FP32 \[-1, 4, 3\]"),
        (_inputs((4, 3)), r"is FP32 \[4, 3\], expected"),
        (_inputs((1, 4, 3), "f8"), r"is FP64 \[1, 4, 3\], expected FP32"),
    ],
)
def test_inputs_that_do_not_fit_are_told_what_is_expected(
    inputs: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(BadTensorError, match=said):
        check_inputs(SPECS, inputs)


def test_the_batch_is_the_first_dimension_of_all_inputs() -> None:
    assert batch_size(_inputs((5, 4, 3))) == 5


@pytest.mark.parametrize("shapes", [((2, 4), (3, 4)), ((0, 4), (0, 4)), ((), ()), ((1,), ())])
def test_inputs_of_different_batches_or_of_none_are_refused(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    with pytest.raises(BadTensorError, match="the same windows, at least one"):
        batch_size({"a": np.zeros(shapes[0]), "b": np.zeros(shapes[1])})
