from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.engines.ort import OrtEngine
from bundle.errors import InputError
from bundle.manifest import ModelEntry, Preprocessing
from calibration.ranges import compute_nodes, quantize_cpu

_ENTRY = ModelEntry(role="reference", file="m.onnx", precision="fp32", opset=17)
_SPEC = Preprocessing(size_wh=(16, 16))
_RNG = np.random.default_rng(0)
_FRAMES = _RNG.normal(0, 1, (24, 3, 16, 16)).astype(np.float32)


def _network() -> bytes:
    """Three convolutions with ReLU, then a classifier of four classes."""
    nodes, weights, last, channels = [], [], "image", 3
    for layer in range(3):
        kernel = _RNG.normal(0, 0.3, (8, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], f"conv{layer}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"], f"relu{layer}"))
        last, channels = f"r{layer}", 8
    weights.append(numpy_helper.from_array(_RNG.normal(0, 1, (8, 4)).astype(np.float32), "w"))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w"], ["logits"], "classifier"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "net", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


def _infer(model: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with OrtEngine(model, _ENTRY, _SPEC, classes=4) as engine:
        return engine.infer(_FRAMES)


def test_compute_nodes_are_named_in_order() -> None:
    assert compute_nodes(_network()) == (["conv0", "conv1", "conv2"], ["classifier"])


@pytest.mark.parametrize("float_convs", [0, 2])
def test_quantize_cpu_leaves_exactly_the_asked_nodes_in_float(float_convs: int) -> None:
    quantized = quantize_cpu(_network(), _ENTRY, _FRAMES, float_convs=float_convs)
    graph = onnx.load_model_from_string(quantized.model).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    integer = [n.name for n in graph.node if n.op_type == "Conv" and made_by.get(n.input[1]) == "DequantizeLinear"]
    assert integer == ["conv0", "conv1", "conv2"][float_convs:]
    assert quantized.float_nodes == (*["conv0", "conv1", "conv2"][:float_convs], "classifier")


def test_quantize_cpu_stays_close_to_float() -> None:
    model = _network()
    reference = _infer(model)
    error = np.abs(_infer(quantize_cpu(model, _ENTRY, _FRAMES, float_convs=0).model) - reference)
    assert error.max() < 0.1 * np.abs(reference).max()


def test_quantize_cpu_activations_are_unsigned_and_weights_signed() -> None:
    model = onnx.load_model_from_string(quantize_cpu(_network(), _ENTRY, _FRAMES, float_convs=0).model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    zero_points = {kinds[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert zero_points == {TensorProto.UINT8}
    assert {kinds[name] for name in kinds if name.endswith("_quantized") and name[0] == "w"} == {TensorProto.INT8}


def test_quantize_cpu_too_few_frames_is_refused() -> None:
    with pytest.raises(InputError, match="got 3, expected at least 16"):
        quantize_cpu(_network(), _ENTRY, _FRAMES[:3], float_convs=0)
