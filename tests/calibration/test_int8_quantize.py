from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.engines.ort import OrtEngine
from bundle.errors import InputError
from bundle.manifest import ModelEntry, Preprocessing
from calibration.int8.graph import Graph, normal_form
from calibration.int8.placement import Dialect, quantized_tensors, residual_side
from calibration.int8.qdq import Filters, scale_of, with_room_for_bias
from calibration.int8.quantize import Prepared, Recipe, Technique, most_sensitive, prepare, quantize
from tests.simulators.networks import CLASSES, CONVOLUTIONS, SIZE, images, residual_network

_ENTRY = ModelEntry(role="reference", file="m.onnx", precision="fp32", opset=17)
_SPEC = Preprocessing(size_wh=(SIZE, SIZE))
_FRAMES = images()
_DIALECTS: tuple[Dialect, ...] = ("cpu", "tensorrt")


def _infer(model: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with OrtEngine(model, _ENTRY, _SPEC, classes=CLASSES) as engine:
        return engine.infer(_FRAMES)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(residual_network(), _FRAMES)


def _graph(model: bytes) -> onnx.GraphProto:
    return onnx.load_model_from_string(model).graph


def _makers(model: bytes) -> dict[str, onnx.NodeProto]:
    return {name: node for node in _graph(model).node for name in node.output}


def _node(model: bytes, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in _graph(model).node if node.name == name)
    return found


@pytest.mark.parametrize("dialect", _DIALECTS)
def test_quantize_stays_close_to_float(prepared: Prepared, dialect: Dialect) -> None:
    reference = _infer(residual_network())
    error = np.abs(_infer(quantize(prepared, Recipe(dialect)).model) - reference)
    assert error.max() < 0.05 * np.abs(reference).max()


@pytest.mark.parametrize("dialect", _DIALECTS)
def test_quantize_leaves_exactly_the_asked_convolutions_in_float(prepared: Prepared, dialect: Dialect) -> None:
    left = frozenset({"stem", "b2"})
    quantized = quantize(prepared, Recipe(dialect, float_convolutions=left))
    makers = _makers(quantized.model)
    integer = [
        node.name
        for node in _graph(quantized.model).node
        if node.op_type == "Conv" and node.input[1] in makers and makers[node.input[1]].op_type == "DequantizeLinear"
    ]
    assert integer == [name for name in CONVOLUTIONS if name not in left]
    assert quantized.float_nodes == ("stem", "b2", "fc")


@pytest.mark.parametrize("dialect", _DIALECTS)
def test_quantize_everything_in_float_is_the_reference(prepared: Prepared, dialect: Dialect) -> None:
    model = quantize(prepared, Recipe(dialect, float_convolutions=frozenset(CONVOLUTIONS))).model
    assert not [node for node in _graph(model).node if node.op_type == "QuantizeLinear"]
    np.testing.assert_allclose(_infer(model), _infer(residual_network()), rtol=1e-5, atol=1e-5)


def test_quantize_cpu_both_sides_of_every_convolution_are_integers(prepared: Prepared) -> None:
    model = quantize(prepared, Recipe("cpu")).model
    makers, graph = _makers(model), _graph(model)
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    readers = {name: [n for n in graph.node if name in n.input] for node in graph.node for name in node.output}
    for name in CONVOLUTIONS:
        node = _node(model, name)
        assert [makers[source].op_type for source in node.input] == ["DequantizeLinear"] * 3
        after = readers[node.output[0]][0]
        after = readers[after.output[0]][0] if after.op_type in {"Relu", "Clip"} else after
        assert after.op_type == "QuantizeLinear"
    activations = {kinds[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert activations == {TensorProto.UINT8}


def test_quantize_cpu_bias_has_the_scale_of_the_accumulator(prepared: Prepared) -> None:
    model = quantize(prepared, Recipe("cpu")).model
    arrays = {t.name: numpy_helper.to_array(t) for t in _graph(model).initializer}
    makers = _makers(model)
    node = _node(model, "a1")
    of_input, of_weight, of_bias = (arrays[makers[source].input[1]] for source in node.input)
    np.testing.assert_array_equal(of_bias, of_input * of_weight)
    assert arrays[makers[node.input[2]].input[0]].dtype == np.int32


def test_quantize_tensorrt_has_zero_points_0_and_float_biases(prepared: Prepared) -> None:
    model = quantize(prepared, Recipe("tensorrt")).model
    arrays = {t.name: numpy_helper.to_array(t) for t in _graph(model).initializer}
    zero_points = [arrays[node.input[2]] for node in _graph(model).node if "Linear" in node.op_type]
    assert {array.dtype for array in zero_points} == {np.dtype(np.int8)}
    assert not any(array.any() for array in zero_points)
    assert arrays[_node(model, "a1").input[2]].dtype == np.float32


def test_quantize_tensorrt_nothing_stands_between_a_convolution_and_what_fuses_with_it(prepared: Prepared) -> None:
    model = quantize(prepared, Recipe("tensorrt")).model
    assert _node(model, "stem.relu").input[0] == _node(model, "stem").output[0]
    assert _node(model, "b2.clip").input[0] == _node(model, "b2").output[0]
    assert _node(model, "a.add").input[0] == _node(model, "a2").output[0]


def test_quantize_tensorrt_the_other_side_of_an_addition_is_dequantised(prepared: Prepared) -> None:
    model = quantize(prepared, Recipe("tensorrt")).model
    makers = _makers(model)
    for add in ("a.add", "b.add"):
        kinds = sorted(makers[name].op_type for name in _node(model, add).input)
        assert kinds == ["Conv", "DequantizeLinear"]


def test_residual_side_of_a_block_that_changes_size_is_its_shortcut() -> None:
    graph = Graph(normal_form(residual_network()))
    adds = [node for node in graph.nodes if node.op_type == "Add"]
    assert [residual_side(graph, add, frozenset(CONVOLUTIONS)) for add in adds] == [["short.out"], ["a.relu.out"]]


def test_residual_side_without_an_integer_convolution_is_none() -> None:
    graph = Graph(normal_form(residual_network()))
    add = next(node for node in graph.nodes if node.name == "b.add")
    assert residual_side(graph, add, frozenset({"a1"})) == []


def test_quantized_tensors_pooling_has_one_scale_on_both_sides() -> None:
    graph = Graph(normal_form(residual_network()))
    ranged_by = quantized_tensors(graph, "cpu", frozenset(CONVOLUTIONS))
    assert ranged_by["stem.relu.out"] == ranged_by["pool.out"] == "pool.out"


def test_quantize_onnx_runtime_executes_integer_convolutions(prepared: Prepared, tmp_path: object) -> None:
    """The point of the cpu dialect: ONNX Runtime fuses every convolution into an integer kernel."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = f"{tmp_path}/optimised.onnx"
    ort.InferenceSession(quantize(prepared, Recipe("cpu")).model, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(f"{tmp_path}/optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == len(CONVOLUTIONS)
    assert "Conv" not in kinds


def _error(*techniques: Technique) -> float:
    model = quantize(prepare(residual_network(), _FRAMES, techniques=frozenset(techniques)), Recipe("cpu")).model
    return float(np.abs(_infer(model) - _infer(residual_network())).mean())


def test_prepare_rounding_together_beats_the_nearest() -> None:
    assert _error("round_together", "correct_bias") < _error()


def test_prepare_too_few_frames_is_refused() -> None:
    with pytest.raises(InputError, match="got 3, expected at least 16"):
        prepare(residual_network(), _FRAMES[:3])


def test_most_sensitive_ranks_by_the_harm_of_each_alone(prepared: Prepared) -> None:
    harm = dict(zip(CONVOLUTIONS, (0.1, 0.7, 0.2, 0.3, 0.0, 0.5, 0.4), strict=True))

    def distance(model: bytes) -> float:
        makers = _makers(model)
        (integer,) = [n.name for n in _graph(model).node if n.op_type == "Conv" and n.input[1] in makers]
        return harm[integer]

    ranked = most_sensitive(prepared, Recipe("tensorrt"), distance)
    assert ranked == ["a1", "b2", "b3", "short", "a2", "stem", "b1"]


@pytest.mark.parametrize(
    ("low", "high", "dialect", "step", "zero"),
    [
        (0.0, 25.5, "cpu", 0.1, 0),
        (-12.7, 12.8, "cpu", 0.1, 127),
        (5.0, 25.5, "cpu", 0.1, 0),
        (-12.7, 3.0, "tensorrt", 0.1, 0),
        (0.0, 0.0, "cpu", None, 0),
    ],
    ids=["positive", "both", "zero is kept", "symmetric", "empty"],
)
def test_scale_of_covers_the_range_and_zero(
    low: float, high: float, dialect: Dialect, step: float | None, zero: int
) -> None:
    scale = scale_of(low, high, dialect)
    assert scale.zero_point == zero
    assert scale.step > 0
    assert step is None or scale.step == pytest.approx(step)


def test_with_room_for_bias_a_switched_off_filter_keeps_its_bias() -> None:
    """Weights near zero, an ordinary bias: in units of the tiny scale the bias would not fit into 32 bits."""
    tiny = Filters(np.array([[127], [100]], np.int8), np.array([1e-12, 0.1], np.float32), np.array([3, 3], np.float32))
    roomy = with_room_for_bias(tiny, np.float32(0.05))
    integers = tiny.bias / (roomy.scales * np.float32(0.05))
    assert np.abs(integers).max() < 2**31
    assert roomy.rounded.tolist() == [[0], [100]]
    np.testing.assert_array_equal(roomy.scales[1], tiny.scales[1])


def test_normal_form_inlines_constants_and_gives_each_convolution_its_own_bias() -> None:
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    bias = numpy_helper.from_array(np.ones(2, np.float32), "b")
    nodes = [
        helper.make_node("Identity", ["b"], ["b2"]),
        helper.make_node("Constant", [], ["six"], value=numpy_helper.from_array(np.array(6, np.float32))),
        helper.make_node("Conv", ["image", "w", "b"], ["x"]),
        helper.make_node("Conv", ["image", "w", "b2"], ["y"]),
        helper.make_node("Conv", ["image", "w"], ["z"]),
        helper.make_node("Min", ["x", "y", "z", "six"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [weight, bias],
    )
    model = normal_form(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    onnx.checker.check_model(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv", "Conv", "Min"]
    assert len({node.name for node in model.graph.node}) == 4
    assert len({name for node in convolutions for name in node.input[1:]}) == 6


def test_normal_form_computed_weight_is_refused() -> None:
    nodes = [helper.make_node("Abs", ["w"], ["v"]), helper.make_node("Conv", ["image", "v"], ["logits"], "odd")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")],
    )
    with pytest.raises(InputError, match="odd has no constant weight"):
        normal_form(helper.make_model(graph).SerializeToString())
