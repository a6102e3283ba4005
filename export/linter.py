# ruff: noqa: TID253 - the linted model is an ONNX graph
"""What runtimes need of a Q/DQ graph, as rules that a file keeps or breaks. Pure: bytes in, findings out.

A graph that breaks a rule may still load, and then runs slower or answers something else: that is why these are checked
and not left to a robot. Sources: NVIDIA's guide "Working with Quantized Types" (Q/DQ placement), the operator tables of
onnx-tensorrt, and the parsers' own checks (zero points, operator sets); for processors, what ONNX Runtime fuses into
one integer convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from calibration.int8.placement import Dialect

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"
_FUSED = frozenset({"Relu", "Clip"})
_PRODUCTS = frozenset({"Gemm", "MatMul"})
_WEIGHT, _BIAS, _ZERO_POINT = 1, 2, 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule.

    Attributes:
        rule: A key of `RULES` or `CPU_RULES`.
        node: Node, tensor or file that breaks it.
        message: What is wrong, and what it should be.
    """

    rule: str
    node: str
    message: str


class _View:
    """The graph as the rules look at it."""

    def __init__(self, model: onnx.ModelProto, max_opset: int) -> None:
        self.model, self.max_opset = model, max_opset
        self.nodes = list(model.graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if tensor in node.input]

    def array(self, tensor: str) -> NDArray[Any] | None:
        found = self.initializers.get(tensor)
        return None if found is None or found.data_location == TensorProto.EXTERNAL else numpy_helper.to_array(found)

    def is_made_by(self, tensor: str, kind: str) -> bool:
        maker = self.makers.get(tensor)
        return maker is not None and maker.op_type == kind

    def of_kind(self, *kinds: str) -> Iterator[onnx.NodeProto]:
        return (node for node in self.nodes if node.op_type in kinds)

    def is_integer(self, conv: onnx.NodeProto) -> bool:
        return self.is_made_by(conv.input[0], _DQ)


def _opset(view: _View) -> Iterator[tuple[str, str]]:
    for entry in view.model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > view.max_opset:
            yield "model", f"operator set {entry.version}, the target reads up to {view.max_opset}"


def _domains(view: _View) -> Iterator[tuple[str, str]]:
    for entry in view.model.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            yield "model", f"imports the operator domain {entry.domain!r}; only the default one is used"
    for node in view.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield node.name, f"is {node.domain}.{node.op_type}, which TensorRT does not know"


def _external_data(view: _View) -> Iterator[tuple[str, str]]:
    for name, tensor in view.initializers.items():
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            yield name, "lives outside the file"


def _batch(view: _View) -> Iterator[tuple[str, str]]:
    for value in view.model.graph.input:
        first, *rest = value.type.tensor_type.shape.dim
        if not first.dim_param and not first.dim_value:
            yield value.name, "has a batch dimension without a name"
        if any(not dimension.dim_value for dimension in rest):
            yield value.name, "has a dynamic dimension besides the batch"


def _zero_points(view: _View) -> Iterator[tuple[str, str]]:
    for node in view.of_kind(_Q, _DQ):
        zero = view.array(node.input[_ZERO_POINT]) if len(node.input) > _ZERO_POINT else None
        if zero is None or zero.dtype != np.int8:
            yield node.name, f"has a zero point of type {'uint8' if zero is None else zero.dtype}, not int8"
        elif np.any(zero):
            yield node.name, "has a zero point other than 0"


def _scales(view: _View) -> Iterator[tuple[str, str]]:
    for node in view.of_kind(_Q, _DQ):
        scale = view.array(node.input[1])
        if scale is None:
            yield node.name, "has a scale that is no constant"
        elif not np.all(np.isfinite(scale) & (scale > 0)):
            yield node.name, "has a scale that is not a positive number"
        elif scale.ndim and _axis(node) != 0:
            yield node.name, f"has scales along axis {_axis(node)}, not along the filters (0)"


def _axis(node: onnx.NodeProto) -> int:
    return next((int(entry.i) for entry in node.attribute if entry.name == "axis"), 1)


def _pairs(view: _View) -> Iterator[tuple[str, str]]:
    for node in view.of_kind(_Q):
        readers = view.readers(node.output[0])
        if not readers or any(reader.op_type != _DQ for reader in readers):
            yield node.name, "is not followed by DequantizeLinear alone"
        if any(list(reader.input[1:]) != list(node.input[1:]) for reader in readers if reader.op_type == _DQ):
            yield node.name, "is dequantised with another scale"
    for node in view.of_kind(_DQ):
        if not view.is_made_by(node.input[0], _Q):
            yield node.name, "is not fed by a QuantizeLinear"


def _biases(view: _View) -> Iterator[tuple[str, str]]:
    for node in view.of_kind("Conv", *_PRODUCTS):
        if len(node.input) > _BIAS and view.is_made_by(node.input[_BIAS], _DQ):
            yield node.name, "has a quantised bias; TensorRT wants it in float"


def _weights(view: _View) -> Iterator[tuple[str, str]]:
    for node in view.of_kind("Conv"):
        weight = view.makers.get(node.input[_WEIGHT])
        integer_weight = weight is not None and weight.op_type == _DQ
        if integer_weight != view.is_integer(node):
            yield node.name, "has only one of input and weight quantised, so it runs in float all the same"
        if weight is not None and integer_weight:
            scale = view.array(weight.input[1])
            if scale is not None and scale.ndim != 1:
                yield node.name, "has one scale for all filters; use one per filter"


def _fusion(view: _View) -> Iterator[tuple[str, str]]:
    for node in view.of_kind("Conv"):
        for quantize in (reader for reader in view.readers(node.output[0]) if reader.op_type == _Q):
            for after in (user for pair in view.readers(quantize.output[0]) for user in view.readers(pair.output[0])):
                if after.op_type in _FUSED:
                    yield quantize.name, f"stands between {node.name} and its {after.op_type}, which then cannot fuse"


def _residuals(view: _View) -> Iterator[tuple[str, str]]:
    for node in view.of_kind("Add"):
        integer = [name for name in node.input if _comes_from_integer(view, name)]
        dequantized = [name for name in node.input if view.is_made_by(name, _DQ)]
        bare = [name for name in integer if not view.is_made_by(name, _DQ)]
        if not integer:
            continue
        if len(dequantized) == len(node.input):
            yield node.name, "has Q/DQ on both sides, so no convolution can fuse with it"
        elif bare and not dequantized:
            yield node.name, "has Q/DQ on no side; the side that is not the fused convolution needs it"
        elif dequantized and not bare:
            yield node.name, "has Q/DQ on the side that no convolution fuses with"


def _comes_from_integer(view: _View, tensor: str) -> bool:
    """Whether a tensor is the result, quantised or not, of an INT8 convolution that is read here alone."""
    maker = view.makers.get(tensor)
    if maker is not None and maker.op_type == _DQ:
        quantize = view.makers.get(maker.input[0])
        source = quantize.input[0] if quantize is not None else ""
        maker = view.makers.get(source)
        return (
            maker is not None and maker.op_type == "Conv" and view.is_integer(maker) and len(view.readers(source)) == 1
        )
    return maker is not None and maker.op_type == "Conv" and view.is_integer(maker) and len(view.readers(tensor)) == 1


def _classifier(view: _View) -> Iterator[tuple[str, str]]:
    for node in view.of_kind(*_PRODUCTS):
        if any(view.is_made_by(name, _DQ) for name in node.input):
            yield node.name, "is quantised; the classifier computes in float"


def _unsigned(view: _View) -> Iterator[tuple[str, str]]:
    for node in view.of_kind(_Q):
        zero = view.array(node.input[_ZERO_POINT]) if len(node.input) > _ZERO_POINT else None
        if zero is None or zero.dtype != np.uint8:
            yield node.name, "does not quantise to uint8, which integer kernels of processors want"


def _with_integer_weights(view: _View) -> Iterator[onnx.NodeProto]:
    return (node for node in view.of_kind("Conv") if view.is_made_by(node.input[_WEIGHT], _DQ))


def _integer_weights(view: _View) -> Iterator[tuple[str, str]]:
    for node in _with_integer_weights(view):
        values, steps, zeros = (view.array(name) for name in view.makers[node.input[_WEIGHT]].input)
        if not view.is_integer(node):
            yield node.name, "has integer weights and a float input, so it runs in float all the same"
        if values is None or values.dtype != np.int8 or zeros is None or np.any(zeros):
            yield node.name, "has weights that are not int8 around 0 in the file"
        elif steps is None or steps.ndim != 1:
            yield node.name, "has one scale for all filters; use one per filter"


def _integer_biases(view: _View) -> Iterator[tuple[str, str]]:
    for node in _with_integer_weights(view):
        makers = [view.makers.get(name) for name in node.input]
        found = [maker for maker in makers if maker is not None and maker.op_type == _DQ]
        if len(found) <= _BIAS:
            yield node.name, "has a float bias, which keeps ONNX Runtime from an integer convolution"
            continue
        image, weight, bias = (view.array(maker.input[1]) for maker in found)
        if image is None or weight is None or bias is None or not np.all(bias == image * weight):
            yield node.name, "has a bias whose scale is not input scale times weight scale"


def _both_sides(view: _View) -> Iterator[tuple[str, str]]:
    for node in _with_integer_weights(view):
        readers = view.readers(node.output[0])
        if len(readers) == 1 and readers[0].op_type in _FUSED:
            readers = view.readers(readers[0].output[0])
        if [reader.op_type for reader in readers] != [_Q]:
            yield node.name, "is not followed by QuantizeLinear alone, so its result leaves the integers"


RULES: dict[str, Callable[[_View], Iterator[tuple[str, str]]]] = {
    "opset": _opset,
    "domains": _domains,
    "external-data": _external_data,
    "batch": _batch,
    "zero-points": _zero_points,
    "scales": _scales,
    "pairs": _pairs,
    "biases": _biases,
    "weights": _weights,
    "fusion": _fusion,
    "residuals": _residuals,
    "classifier": _classifier,
}
"""Rule by name for the TensorRT file; each yields what breaks it and how."""

CPU_RULES: dict[str, Callable[[_View], Iterator[tuple[str, str]]]] = {
    "opset": _opset,
    "domains": _domains,
    "external-data": _external_data,
    "batch": _batch,
    "scales": _scales,
    "unsigned": _unsigned,
    "integer-weights": _integer_weights,
    "integer-biases": _integer_biases,
    "both-sides": _both_sides,
    "classifier": _classifier,
}
"""Rule by name for the file of ONNX Runtime and OpenVINO."""


def lint(model: bytes, dialect: Dialect, *, max_opset: int) -> list[Finding]:
    """Hold a Q/DQ model against what those need who run it.

    Args:
        model: Single-file ONNX.
        dialect: Who shall run it.
        max_opset: Newest operator set that the target reads: 17 for TensorRT 8.6.

    Returns:
        Broken rules, none for a good file.
    """
    view = _View(onnx.load_model_from_string(model), max_opset)
    rules = RULES if dialect == "tensorrt" else CPU_RULES
    return [Finding(name, node, message) for name, rule in rules.items() for node, message in rule(view)]
