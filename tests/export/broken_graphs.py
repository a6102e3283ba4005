"""Graphs with one thing wrong: every rule of the linter with what breaks it and nothing else.

The names are those of `tests.simulators.networks.residual_network`, quantised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable

    Damage = Callable[[onnx.ModelProto], None]


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def _set(model: onnx.ModelProto, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _pair(model: onnx.ModelProto, tensor: str, tag: str) -> tuple[list[onnx.NodeProto], str]:
    """A Q/DQ pair on a tensor, with good scales of its own."""
    names = [f"{tag}.step", f"{tag}.zero"]
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), names[0]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), names[1]))
    made = [
        helper.make_node("QuantizeLinear", [tensor, *names], [f"{tag}.integers"], f"{tag}.Q"),
        helper.make_node("DequantizeLinear", [f"{tag}.integers", *names], [f"{tag}.float"], f"{tag}.DQ"),
    ]
    return made, f"{tag}.float"


def _insert_pair(model: onnx.ModelProto, reader: str, position: int) -> None:
    node = _node(model, reader)
    pair, name = _pair(model, node.input[position], f"extra.{reader}")
    index = list(model.graph.node).index(node)
    node.input[position] = name
    for offset, made in enumerate(pair):
        model.graph.node.insert(index + offset, made)


def _newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


def _orphan_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _foreign_operator(model: onnx.ModelProto) -> None:
    _node(model, "gap").domain = "com.microsoft"


def _external_weight(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")


def _nameless_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()


def _dynamic_height(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def _zero_point(model: onnx.ModelProto) -> None:
    _set(model, "image.zero", np.array(3, np.int8))


def _unsigned(model: onnx.ModelProto) -> None:
    _set(model, "image.zero", np.array(0, np.uint8))


def _no_zero_point(model: onnx.ModelProto) -> None:
    for name in ("image.Q", "image.DQ"):
        del _node(model, name).input[2]


def _scale_of_nothing(model: onnx.ModelProto) -> None:
    _set(model, "image.step", np.array(0, np.float32))


def _scale_of_infinity(model: onnx.ModelProto) -> None:
    _set(model, "image.step", np.array(np.inf, np.float32))


def _wrong_axis(model: onnx.ModelProto) -> None:
    for name in ("a2.weight.Q", "a2.weight.DQ"):  # 12 filters of 12 channels: the axis alone tells
        _node(model, name).attribute[0].i = 1


def _unequal_pair(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "other.step"))
    _node(model, "image.DQ").input[1] = "other.step"


def _lone_quantize(model: onnx.ModelProto) -> None:
    pair, _ = _pair(model, "gap.out", "lone")
    model.graph.node.append(pair[0])


def _bare_integer_weight(model: onnx.ModelProto) -> None:
    """A DequantizeLinear on integers in the file: no QuantizeLinear in front."""
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "b1.weight")
    zeros = np.zeros(numpy_helper.to_array(weight).shape, np.int8)
    model.graph.initializer.append(numpy_helper.from_array(zeros, "b1.integers"))
    _node(model, "b1.weight.DQ").input[0] = "b1.integers"
    model.graph.node.remove(_node(model, "b1.weight.Q"))


def _quantised_bias(model: onnx.ModelProto) -> None:
    _insert_pair(model, "b1", 2)


def _float_weight(model: onnx.ModelProto) -> None:
    _node(model, "b1").input[1] = "b1.weight"
    for name in ("b1.weight.DQ", "b1.weight.Q"):
        model.graph.node.remove(_node(model, name))


def _one_scale_for_all_filters(model: onnx.ModelProto) -> None:
    _set(model, "b1.weight.step", np.array(0.1, np.float32))
    _set(model, "b1.weight.zero", np.array(0, np.int8))
    for name in ("b1.weight.Q", "b1.weight.DQ"):
        del _node(model, name).attribute[:]


def _before_the_relu(model: onnx.ModelProto) -> None:
    _insert_pair(model, "a1.relu", 0)


def _before_the_clip(model: onnx.ModelProto) -> None:
    _insert_pair(model, "b2.clip", 0)


def _both_sides_of_the_addition(model: onnx.ModelProto) -> None:
    add = _node(model, "a.add")
    _insert_pair(model, "a.add", list(add.input).index("a2.out"))


def _no_side_of_the_addition(model: onnx.ModelProto) -> None:
    add = _node(model, "b.add")
    add.input[list(add.input).index("a.relu.out.float")] = "a.relu.out"


def _wrong_side_of_the_addition(model: onnx.ModelProto) -> None:
    add = _node(model, "b.add")
    add.input[list(add.input).index("a.relu.out.float")] = "a.relu.out"
    _insert_pair(model, "b.add", list(add.input).index("b3.out"))


def _quantised_classifier(model: onnx.ModelProto) -> None:
    _insert_pair(model, "fc", 0)


def _quantised_classifier_for_processors(model: onnx.ModelProto) -> None:
    _insert_pair(model, "fc", 0)
    _set(model, "extra.fc.zero", np.array(0, np.uint8))


def _pooled_scale_of_nothing(model: onnx.ModelProto) -> None:
    _set(model, "b.add.out.step", np.array(0, np.float32))


def _signed_activations(model: onnx.ModelProto) -> None:
    _set(model, "image.zero", np.array(0, np.int8))


def _weights_off_zero(model: onnx.ModelProto) -> None:
    _set(model, "b1.weight.zero", np.ones(12, np.int8))


def _weights_with_one_scale(model: onnx.ModelProto) -> None:
    steps = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "b1.weight.step")
    _set(model, "b1.weight.step", np.array(steps[0], np.float32))
    _set(model, "b1.weight.zero", np.array(0, np.int8))
    _set(model, "b1.bias.step", steps[0] * _step_of(model, "a.relu.out") * np.ones(12, np.float32))


def _step_of(model: onnx.ModelProto, tensor: str) -> float:
    found = next(tensor_ for tensor_ in model.graph.initializer if tensor_.name == f"{tensor}.step")
    return float(numpy_helper.to_array(found))


def _float_bias(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(12, np.float32), "b1.bias"))
    _node(model, "b1").input[2] = "b1.bias"
    model.graph.node.remove(_node(model, "b1.bias.DQ"))


def _bias_in_other_units(model: onnx.ModelProto) -> None:
    _set(model, "b1.bias.step", np.full(12, 0.5, np.float32))


def _float_result(model: onnx.ModelProto) -> None:
    _node(model, "b.add").input[1] = _node(model, "b3").output[0]
    for name in ("b3.out.DQ", "b3.out.Q"):
        model.graph.node.remove(_node(model, name))


CPU_BROKEN: list[tuple[str, Damage]] = [
    ("opset", _newer_opset),
    ("domains", _orphan_domain),
    ("external-data", _external_weight),
    ("batch", _nameless_batch),
    ("scales", _pooled_scale_of_nothing),
    ("unsigned", _signed_activations),
    ("integer-weights", _weights_off_zero),
    ("integer-weights", _weights_with_one_scale),
    ("integer-biases", _float_bias),
    ("integer-biases", _bias_in_other_units),
    ("both-sides", _float_result),
    ("classifier", _quantised_classifier_for_processors),
]
BROKEN: list[tuple[str, Damage]] = [
    ("opset", _newer_opset),
    ("domains", _orphan_domain),
    ("domains", _foreign_operator),
    ("external-data", _external_weight),
    ("batch", _nameless_batch),
    ("batch", _dynamic_height),
    ("zero-points", _zero_point),
    ("zero-points", _unsigned),
    ("zero-points", _no_zero_point),
    ("scales", _scale_of_nothing),
    ("scales", _scale_of_infinity),
    ("scales", _wrong_axis),
    ("pairs", _unequal_pair),
    ("pairs", _lone_quantize),
    ("pairs", _bare_integer_weight),
    ("biases", _quantised_bias),
    ("weights", _float_weight),
    ("weights", _one_scale_for_all_filters),
    ("fusion", _before_the_relu),
    ("fusion", _before_the_clip),
    ("residuals", _both_sides_of_the_addition),
    ("residuals", _no_side_of_the_addition),
    ("residuals", _wrong_side_of_the_addition),
    ("classifier", _quantised_classifier),
]
