# ruff: noqa: TID253 - this file writes ONNX graphs
"""Writes INT8 models in Q/DQ form: an FP32 graph and numbers in, a graph with QuantizeLinear and DequantizeLinear out.

One form does not fit both worlds, so there are two dialects; where their Q/DQ pairs stand says `placement`.

"cpu", for ONNX Runtime and OpenVINO: unsigned activations with a zero point, integer biases.

"tensorrt": signed activations, every zero point 0, biases in float. Weights stay in float in front of a Q/DQ pair,
which every TensorRT since 8 understands.

In both, weights are signed and have a scale per filter, and the classifier computes in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from calibration.int8.graph import Graph
from calibration.int8.placement import Dialect, Placement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_BIAS_LIMIT = 2.0**30


@dataclass(frozen=True, slots=True)
class Filters:
    """A convolution's weights as integers.

    Attributes:
        rounded: int8, (O, ...).
        scales: float32, (O,).
        bias: float32, (O,).
    """

    rounded: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scale:
    """How one activation becomes integers: value = (integer - zero_point) * step.

    Attributes:
        step: Above 0.
        zero_point: 0 in the TensorRT dialect.
    """

    step: np.float32
    zero_point: int


def scale_of(low: float, high: float, dialect: Dialect) -> Scale:
    """Spread the integers of a dialect over a range.

    Args:
        low: Smallest value that should be told apart.
        high: Largest one.
        dialect: "cpu" has 0..255 and a zero point, "tensorrt" -127..127.

    Returns:
        The scale; zero is always represented exactly.
    """
    low, high = min(low, 0.0), max(high, 0.0, low + 1e-9)
    if dialect == "tensorrt":
        return Scale(np.float32(max(-low, high) / 127), 0)
    step = (high - low) / 255
    return Scale(np.float32(step), int(np.clip(round(-low / step), 0, 255)))


def scales_of(placement: Placement, dialect: Dialect, ranges: Mapping[str, tuple[float, float]]) -> dict[str, Scale]:
    """The scale of every quantised activation.

    Args:
        placement: Of Q/DQ pairs.
        dialect: Who shall run the model.
        ranges: Smallest and largest value by tensor.

    Returns:
        Scale by tensor.
    """
    return {name: scale_of(*ranges[source], dialect) for name, source in placement.ranged_by.items()}


def write_int8(
    model: onnx.ModelProto,
    dialect: Dialect,
    ranges: Mapping[str, tuple[float, float]],
    filters: Mapping[str, Filters],
) -> bytes:
    """Write an INT8 model.

    Args:
        model: FP32, in normal form; not altered.
        dialect: Who shall run it.
        ranges: Smallest and largest value of every tensor that `calibration.int8.ranges.observed_tensors` names.
        filters: By convolution; convolutions that are not named stay in float.

    Returns:
        A single-file model in the default operator domain.
    """
    writer = _Writer(Graph(model), dialect, ranges, filters)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    del quantized.graph.node[:], quantized.graph.initializer[:], quantized.graph.value_info[:]
    quantized.graph.node.extend(writer.nodes())
    used = {name for node in quantized.graph.node for name in node.input}
    quantized.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in writer.constants.items() if name in used
    )
    onnx.checker.check_model(quantized, full_check=True)
    return bytes(quantized.SerializeToString())


class _Writer:
    """Copies nodes and puts Q/DQ pairs where the dialect wants them."""

    def __init__(
        self,
        graph: Graph,
        dialect: Dialect,
        ranges: Mapping[str, tuple[float, float]],
        filters: Mapping[str, Filters],
    ) -> None:
        self._graph, self._dialect, self._filters = graph, dialect, filters
        self._placement = Placement(graph, dialect, frozenset(filters))
        self._scales = scales_of(self._placement, dialect, ranges)
        self.constants: dict[str, NDArray[np.generic]] = dict(graph.constants)

    def nodes(self) -> list[onnx.NodeProto]:
        written = self._pair(self._graph.input) if self._graph.input in self._scales else []
        for node in self._graph.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for position, name in enumerate(copy.input):
                if self._placement.reads_integers(node, name):
                    copy.input[position] = _dequantized(name)
            if node.name in self._filters:
                written += self._weights(node, copy)
            written.append(copy)
            for name in node.output:
                if name in self._scales:
                    written += self._pair(name)
        return written

    def _pair(self, tensor: str) -> list[onnx.NodeProto]:
        scale = self._scales[tensor]
        kind = np.uint8 if self._dialect == "cpu" else np.int8
        names = [f"{tensor}.step", f"{tensor}.zero"]
        self.constants[names[0]] = np.array(scale.step, np.float32)
        self.constants[names[1]] = np.array(scale.zero_point, kind)
        quantized = f"{tensor}.integers"
        return [
            helper.make_node("QuantizeLinear", [tensor, *names], [quantized], f"{tensor}.Q"),
            _dequantize(tensor, names),
        ]

    def _weights(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Hand a convolution its weights, and in the cpu dialect its bias, through Q/DQ nodes."""
        filters, weight, bias = self._filters[node.name], node.input[1], node.input[2]
        names = [f"{weight}.step", f"{weight}.zero"]
        copy.input[1] = _dequantized(weight)
        if self._dialect == "tensorrt":
            self._put_scales(names, filters.scales, np.int8)
            spread = filters.scales.reshape(-1, *[1] * (filters.rounded.ndim - 1))
            self.constants[weight] = filters.rounded.astype(np.float32) * spread
            self.constants[bias] = filters.bias
            written = helper.make_node(
                "QuantizeLinear", [weight, *names], [f"{weight}.integers"], f"{weight}.Q", axis=0
            )
            return [written, _dequantize(weight, names, axis=0)]
        input_step = self._scales[node.input[0]].step
        filters = with_room_for_bias(filters, input_step)
        self._put_scales(names, filters.scales, np.int8)
        self.constants[f"{weight}.integers"] = filters.rounded
        bias_names = [f"{bias}.step", f"{bias}.zero"]
        self._put_scales(bias_names, filters.scales * input_step, np.int32)
        self.constants[f"{bias}.integers"] = np.rint(filters.bias / (filters.scales * input_step)).astype(np.int32)
        copy.input[2] = _dequantized(bias)
        return [_dequantize(weight, names, axis=0), _dequantize(bias, bias_names, axis=0)]

    def _put_scales(self, names: list[str], scales: NDArray[np.float32], kind: type[np.signedinteger[Any]]) -> None:
        self.constants[names[0]] = scales
        self.constants[names[1]] = np.zeros(len(scales), kind)


def _dequantized(tensor: str) -> str:
    return f"{tensor}.float"


def _dequantize(tensor: str, names: list[str], axis: int | None = None) -> onnx.NodeProto:
    node = helper.make_node("DequantizeLinear", [f"{tensor}.integers", *names], [_dequantized(tensor)], f"{tensor}.DQ")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def with_room_for_bias(filters: Filters, input_step: np.float32) -> Filters:
    """Coarsen the filters whose bias would not fit into 32 bits: those with hardly any weight.

    A filter that training switched off has weights near zero and a bias of ordinary size. In units of its own tiny
    scale that bias overflows, and what a runtime then adds is something else altogether.

    Args:
        filters: Of one convolution.
        input_step: Scale of the convolution's input.

    Returns:
        The filters, most often as they were.
    """
    needed = np.abs(filters.bias) / (input_step * np.float32(_BIAS_LIMIT))
    scales = np.maximum(filters.scales, needed).astype(np.float32)
    shrink = (filters.scales / scales).reshape(-1, *[1] * (filters.rounded.ndim - 1))
    return Filters(np.rint(filters.rounded * shrink).astype(np.int8), scales, filters.bias)
