from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bundle.engines.ort import OrtEngine
from bundle.manifest import ModelEntry, Preprocessing
from calibration.int8.equalize import equalize
from calibration.int8.graph import normal_form
from calibration.int8.quantize import Recipe, prepare, quantize
from tests.simulators.networks import CLASSES, SIZE, images, residual_network

_FRAMES = images()
_ENTRY = ModelEntry(role="reference", file="m.onnx", precision="fp32", opset=17)
_Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def _infer(model: bytes, frames: _Array = _FRAMES) -> _Array:
    with OrtEngine(model, _ENTRY, Preprocessing(size_wh=(SIZE, SIZE)), classes=CLASSES) as engine:
        return engine.infer(frames)


def _constants(model: onnx.ModelProto) -> dict[str, _Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _loud_and_quiet(extra: str = "") -> bytes:
    """A convolution with one channel 50 times as loud as the others, a depthwise one, and a classifier."""
    rng = np.random.default_rng(3)
    loud = rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32)
    loud[0] *= 50
    depthwise = rng.normal(0, 0.5, (8, 1, 3, 3)).astype(np.float32)
    depthwise[0] /= 50
    classify = rng.normal(0, 1, (CLASSES, 8)).astype(np.float32)
    arrays = {"a.w": loud, "b.w": depthwise, "fc.w": classify}
    between = [helper.make_node(extra, ["a.out"], ["mid"], "extra")] if extra else []
    nodes = [
        helper.make_node("Conv", ["image", "a.w"], ["a.out"], "a", pads=[1] * 4),
        *between,
        helper.make_node("Relu", ["mid" if extra else "a.out"], ["r"], "r"),
        helper.make_node("Conv", ["r", "b.w"], ["b.out"], "b", pads=[1] * 4, group=8),
        helper.make_node("GlobalAveragePool", ["b.out"], ["gap"], "gap"),
        helper.make_node("Flatten", ["gap"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "fc.w"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


def test_equalize_computes_the_same() -> None:
    for network in (_loud_and_quiet(), residual_network()):
        equal = equalize(normal_form(network), _FRAMES).SerializeToString()
        np.testing.assert_allclose(_infer(equal), _infer(network), rtol=1e-3, atol=1e-4)


def test_equalize_quiet_channels_of_a_depthwise_reader_reach_as_far_as_the_loudest() -> None:
    before, after = normal_form(_loud_and_quiet()), equalize(normal_form(_loud_and_quiet()), _FRAMES)
    peaks = [np.abs(_constants(model)["a.weight"]).max(axis=(1, 2, 3)) for model in (before, after)]
    assert peaks[0][0] > 20 * peaks[0][1:].max()
    assert peaks[1][0] < 4 * peaks[1][1:].min()
    np.testing.assert_array_equal(peaks[1][0], peaks[0][0])


def test_equalize_halves_the_error_where_channels_differ() -> None:
    network = _loud_and_quiet()
    errors = []
    for techniques in (frozenset({"equalize"}), frozenset[str]()):
        prepared = prepare(network, _FRAMES, techniques=techniques)  # type: ignore[arg-type]  # built of literals
        errors.append(np.abs(_infer(quantize(prepared, Recipe("tensorrt")).model) - _infer(network)).mean())
    assert errors[0] < 0.5 * errors[1]


def test_equalize_leaves_channels_alone_that_another_operator_reads() -> None:
    network = normal_form(_loud_and_quiet("Sigmoid"))
    equal = equalize(network, _FRAMES)
    np.testing.assert_array_equal(_constants(equal)["a.weight"], _constants(network)["a.weight"])


def test_equalize_channel_at_the_bound_of_its_clip_is_not_scaled() -> None:
    """Beyond the bound a factor would change what is cut: only channels with room below it grow."""
    network = normal_form(residual_network())
    cut = next(node for node in network.graph.node if node.name == "b1.clip")
    bound = np.float32(0.05)
    network.graph.initializer.append(numpy_helper.from_array(bound, "low.bound"))
    cut.input[2] = "low.bound"
    equal = equalize(network, _FRAMES)
    np.testing.assert_array_equal(_constants(equal)["b1.bias"], _constants(network)["b1.bias"])
    assert np.any(_constants(equal)["b2.bias"] != _constants(network)["b2.bias"])
    np.testing.assert_allclose(_infer(equal.SerializeToString()), _infer(network.SerializeToString()), atol=1e-3)
