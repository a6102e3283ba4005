# ruff: noqa: TID253 - this file runs an ONNX graph in torch
"""An INT8 model as torch would train it: the FP32 graph, with rounding exactly where its Q/DQ nodes will stand.

Gradients pass through the rounding as if it were not there, and stop where a value is clipped (straight-through, Bengio
et al. 2013; torch's own `fake_quantize` operators do this). torch.ao.quantization is not used: it is deprecated, places
its observers by its own rules, and what is trained must be what `calibration.int8.qdq` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bundle.errors import InputError
from calibration.int8.graph import Graph, attribute
from calibration.int8.placement import Placement
from calibration.int8.qdq import Filters, scales_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx
    from numpy.typing import NDArray

    from calibration.int8.placement import Dialect

_LIMIT = 127
_LEVELS: dict[str, tuple[int, int]] = {"cpu": (0, 255), "tensorrt": (-128, 127)}


class FakeQuantized(nn.Module):
    """An ONNX graph in torch, its integer convolutions and their activations rounded as the INT8 file rounds them.

    Parameters are in steps: 1.0 is one integer of a weight, and one step of what the convolution's result is stored in
    for its bias, so one learning rate suits all layers.

    Args:
        model: FP32, in normal form.
        dialect: Who shall run the INT8 file.
        ranges: As for `calibration.int8.qdq.write_int8`.
        filters: As there; convolutions that are not named compute in float.

    Raises:
        InputError: The graph has an operator that is not known here.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        dialect: Dialect,
        ranges: Mapping[str, tuple[float, float]],
        filters: Mapping[str, Filters],
    ) -> None:
        super().__init__()
        self._graph = Graph(model)
        unknown = sorted({node.op_type for node in self._graph.nodes} - set(_OPERATORS) - {"Conv", "Gemm"})
        if unknown:
            raise InputError(f"this network cannot be fine-tuned: operator {unknown[0]}", fix="Export without --qat.")
        self._dialect, self._filters = dialect, filters
        self._placement = Placement(self._graph, dialect, frozenset(filters))
        self._scales = scales_of(self._placement, dialect, ranges)
        self._weights = nn.ParameterDict()
        self._biases = nn.ParameterDict()
        self._steps: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for node in (*self._graph.convolutions(), *self._graph.products()):
            self._add(node, ranges)

    def _add(self, node: onnx.NodeProto, ranges: Mapping[str, tuple[float, float]]) -> None:
        """Parameters of a convolution or product, in steps."""
        weight = np.asarray(self._graph.constants[node.input[1]], np.float32)
        bias = self._graph.constants[node.input[2]] if len(node.input) > 2 else np.zeros(1)  # noqa: PLR2004
        filters = self._filters.get(node.name)
        if filters is None:
            steps = np.full(len(weight), max(float(np.abs(weight).max()), 1e-12) / _LIMIT, np.float32)
            start = weight / _spread(steps, weight)
        else:
            steps, start, bias = filters.scales, filters.rounded.astype(np.float32), filters.bias
        low, high = ranges.get(self._graph.after_activation(node.output[0]), (0.0, 2.0 * _LIMIT * float(steps.mean())))
        bias_step = np.float32(max(high - low, 1e-6) / 255)
        key = _key(node.name)
        self._steps[key] = (torch.from_numpy(np.array(steps)), torch.tensor(bias_step))
        self._weights[key] = nn.Parameter(torch.from_numpy(np.ascontiguousarray(start, np.float32)))
        self._biases[key] = nn.Parameter(torch.from_numpy(np.asarray(bias / bias_step, np.float32)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            images: float32, (N, 3, H, W), preprocessed.

        Returns:
            float32, (N, K).
        """
        values = {self._graph.input: images}
        rounded: dict[str, torch.Tensor] = {}
        for node in self._graph.nodes:
            inputs = [
                self._rounded(name, values, rounded) if self._placement.reads_integers(node, name) else values[name]
                for name in node.input
                if name in values
            ]
            if node.op_type in {"Conv", "Gemm"}:
                values[node.output[0]] = self._product(node, inputs[0])
            else:
                values[node.output[0]] = _OPERATORS[node.op_type](node, self._graph, inputs)
        return values[self._graph.output]

    def _rounded(self, name: str, values: Mapping[str, torch.Tensor], rounded: dict[str, torch.Tensor]) -> torch.Tensor:
        if name not in rounded:
            scale = self._scales[name]
            low, high = _LEVELS[self._dialect]
            rounded[name] = torch.fake_quantize_per_tensor_affine(
                values[name], float(scale.step), scale.zero_point, low, high
            )
        return rounded[name]

    def _product(self, node: onnx.NodeProto, image: torch.Tensor) -> torch.Tensor:
        weight, bias = self._current(node)
        if node.op_type == "Gemm":
            return functional.linear(image, weight if attribute(node, "transB", [0])[0] else weight.T, bias)
        top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
        if (top, left) != (bottom, right):
            image, top, left = functional.pad(image, (left, right, top, bottom)), 0, 0
        return functional.conv2d(
            image,
            weight,
            bias,
            stride=tuple(attribute(node, "strides", [1, 1])),
            padding=(top, left),
            dilation=tuple(attribute(node, "dilations", [1, 1])),
            groups=attribute(node, "group", [1])[0],
        )

    def _current(self, node: onnx.NodeProto) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias as the INT8 file will hold them, in the network's own units."""
        key = _key(node.name)
        steps, bias_step = self._steps[key]
        weight = self._weights[key]
        if node.name in self._filters:
            weight = torch.fake_quantize_per_tensor_affine(weight, 1.0, 0, -_LIMIT, _LIMIT)
        return weight * steps.reshape(-1, *[1] * (weight.ndim - 1)), self._biases[key] * bias_step

    @torch.no_grad()
    def learned(self) -> tuple[dict[str, Filters], dict[str, NDArray[np.float32]]]:
        """What training changed.

        Returns:
            Filters of the integer convolutions, and new constants of what computes in float, by initialiser.
        """
        filters: dict[str, Filters] = {}
        constants: dict[str, NDArray[np.float32]] = {}
        for node in (*self._graph.convolutions(), *self._graph.products()):
            weight, bias = (tensor.numpy() for tensor in self._current(node))
            if node.name in self._filters:
                rounded = self._weights[_key(node.name)].round().clamp(-_LIMIT, _LIMIT).numpy().astype(np.int8)
                filters[node.name] = Filters(rounded, self._filters[node.name].scales, bias.copy())
            else:
                constants |= dict(zip(node.input[1:], (weight.copy(), bias.copy()), strict=False))
        return filters, constants


def _key(name: str) -> str:
    """Torch allows no dots in names of parameters."""
    return name.replace(".", ":")


def _spread(steps: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return steps.reshape(-1, *[1] * (weight.ndim - 1))


def _clip(node: onnx.NodeProto, graph: Graph, inputs: list[torch.Tensor]) -> torch.Tensor:
    low, high = (float(graph.constants[name]) if name else None for name in (*node.input[1:3], "", "")[:2])
    return inputs[0].clamp(low, high)


def _max_pool(node: onnx.NodeProto, _: Graph, inputs: list[torch.Tensor]) -> torch.Tensor:
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    image = functional.pad(inputs[0], (left, right, top, bottom), value=-torch.inf)
    return functional.max_pool2d(image, attribute(node, "kernel_shape", []), attribute(node, "strides", [1, 1]))


_OPERATORS: dict[str, Callable[[onnx.NodeProto, Graph, list[torch.Tensor]], torch.Tensor]] = {
    "Relu": lambda _node, _graph, inputs: inputs[0].relu(),
    "Clip": _clip,
    "Add": lambda _node, _graph, inputs: inputs[0] + inputs[1],
    "MaxPool": _max_pool,
    "GlobalAveragePool": lambda _node, _graph, inputs: inputs[0].mean(dim=(2, 3), keepdim=True),
    "Flatten": lambda _node, _graph, inputs: inputs[0].flatten(1),
}
