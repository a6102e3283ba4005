# ruff: noqa: TID253 - this file rewrites an ONNX graph
"""Cross-layer equalisation: quiet channels are made louder, so that they do not drown in a loud neighbour's steps.

All channels of a tensor share one INT8 scale. Where a convolution writes a channel and others read it, the writer's
filter can be multiplied by a factor and the readers' weights divided by it, and the network computes what it computed
before (Nagel et al., "Data-Free Quantization", 2019). As weights have a scale per filter here, the writer loses nothing
by it, and neither does a depthwise reader: there every channel is brought to the full range. A dense reader trades
steps of the activation for steps of its weights, so the strength is the one that predicts the least noise.

A Clip in between (Relu6) allows only what stays below its bound on the frames, with a margin. On other frames a channel
may be cut a little earlier than before; the parity check sees that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from calibration.int8.graph import Graph, attribute
from calibration.int8.taps import Taps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_PASSING = frozenset({"Relu", "Clip", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten"})
"""What leaves channels apart and, multiplied by positive factors, computes the same (Clip: below its bound)."""
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LARGEST = 64.0
_MARGIN = 1.2
_ROUNDING_GAIN = 0.25
"""Share of the weights' rounding noise that is left after `rounding.round_together`."""
_AXES = 4


@dataclass(frozen=True, slots=True)
class _Group:
    """Tensors whose channels must be scaled alike, and who makes and reads them."""

    tensors: tuple[str, ...]
    writers: tuple[onnx.NodeProto, ...]
    readers: tuple[onnx.NodeProto, ...]
    bound: float


@dataclass(frozen=True, slots=True)
class _Channels:
    """What the frames do in a group: float64, (C,) each."""

    largest: NDArray[np.float64]
    power: NDArray[np.float64]


def equalize(model: onnx.ModelProto, tensors_nchw: NDArray[np.float32]) -> onnx.ModelProto:
    """Scale channels so that INT8 tells their values apart.

    Args:
        model: FP32, in normal form; not altered.
        tensors_nchw: float32, (N, 3, H, W), preprocessed frames.

    Returns:
        A network of the same graph that computes the same logits, but for values beyond a Clip's bound.
    """
    graph = Graph(model)
    groups = _groups(graph)
    constants: dict[str, NDArray[np.generic]] = dict(graph.constants)
    seen = _look(model, groups, tensors_nchw)
    for group, channels in zip(groups, seen, strict=True):
        factors = _factors(group, channels, constants)
        for node in group.writers:
            _scale_filters(node, factors, constants)
        for node in group.readers:
            _scale_inputs(node, 1 / factors, constants)
    scaled = onnx.ModelProto()
    scaled.CopyFrom(model)
    del scaled.graph.initializer[:]
    scaled.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return scaled


def _groups(graph: Graph) -> list[_Group]:
    """Connected tensors, without those groups that anything but these operators touches."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for node in graph.nodes:
        if node.op_type in _PASSING:
            for name in node.input[: 2 if node.op_type == "Add" else 1]:
                leader[find(name)] = find(node.output[0])
        elif node.op_type == "Conv":
            find(node.output[0])
    members: dict[str, list[str]] = {}
    for name in leader:
        members.setdefault(find(name), []).append(name)
    found = [_group(graph, tensors) for tensors in members.values()]
    return [group for group in found if group is not None]


def _group(graph: Graph, tensors: Sequence[str]) -> _Group | None:
    makers = [graph.makers.get(name) for name in tensors]
    used = [node for name in tensors for node in graph.readers.get(name, [])]
    writers = [node for node in makers if node is not None and node.op_type == "Conv"]
    readers = {node.name: node for node in used if node.op_type in {"Conv", "Gemm"}}
    plain = all(node is not None and node.op_type in {*_PASSING, "Conv"} for node in makers)
    plain = plain and all(node.op_type in {*_PASSING, "Conv", "Gemm"} for node in used)
    if not plain or not readers or not writers or graph.output in tensors:
        return None
    widths = {len(graph.constants[node.input[1]]) for node in writers}
    widths |= {_inputs_of(node, graph.constants) for node in readers.values()}
    bounds = [_upper_bound(node, graph) for node in makers if node is not None and node.op_type == "Clip"]
    if len(widths) != 1 or any(bound is None for bound in bounds):
        return None
    return _Group(tuple(tensors), tuple(writers), tuple(readers.values()), min([np.inf, *filter(None, bounds)]))


def _inputs_of(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> int:
    """Channels that a convolution or matrix product reads; 0 where that is not known."""
    weight = constants.get(node.input[1])
    if weight is None:
        return 0
    if node.op_type == "Conv":
        return int(weight.shape[1]) * attribute(node, "group", [1])[0]
    return int(weight.shape[attribute(node, "transB", [0])[0]])


def _upper_bound(node: onnx.NodeProto, graph: Graph) -> float | None:
    """Bound of a Clip from 0; None for any other, which scaling would change."""
    low, high = (graph.constants.get(name) for name in (*node.input[1:3], "", "")[:2])
    if low is None or high is None or float(low) != 0.0:
        return None
    return float(high)


def _look(model: onnx.ModelProto, groups: Sequence[_Group], tensors_nchw: NDArray[np.float32]) -> list[_Channels]:
    """Largest magnitude and mean square of every channel, over all tensors of its group."""
    graph = Graph(model)
    maps = [[name for name in group.tensors if _is_map(graph, name)] for group in groups]
    names = [name for group in maps for name in group]
    largest: dict[str, NDArray[np.float64]] = {}
    power: dict[str, NDArray[np.float64]] = {}
    for arrays in Taps(model, names)(tensors_nchw):
        for name, array in zip(names, arrays, strict=True):
            top = np.maximum(array.max(axis=(0, 2, 3)), -array.min(axis=(0, 2, 3))).astype(np.float64)
            largest[name] = np.maximum(largest.get(name, top), top)
            power[name] = power.get(name, np.zeros(1)) + np.square(array).mean(axis=(0, 2, 3), dtype=np.float64)
    return [
        _Channels(
            np.max([largest[name] for name in group], axis=0),
            np.max([power[name] for name in group], axis=0) / len(tensors_nchw),
        )
        for group in maps
    ]


def _is_map(graph: Graph, tensor: str) -> bool:
    return graph.makers[tensor].op_type not in {"GlobalAveragePool", "Flatten"}


def _factors(group: _Group, channels: _Channels, constants: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float64]:
    """The factor of every channel, 1 and above, of the strength that predicts the least noise."""
    reach = np.minimum(channels.largest, group.bound)
    full = np.clip(reach.max() / np.maximum(reach, reach.max() / _LARGEST), 1.0, _LARGEST)
    room = group.bound / np.maximum(_MARGIN * channels.largest, 1e-12)
    full = np.maximum(np.minimum(full, room), 1.0)
    full[channels.largest <= 0] = 1.0
    noise = [
        sum(_noise(node, full**strength, reach.max(), channels.power, constants) for node in group.readers)
        for strength in _STRENGTHS
    ]
    return np.asarray(full ** _STRENGTHS[int(np.argmin(noise))])


def _noise(
    node: onnx.NodeProto,
    factors: NDArray[np.float64],
    reach: float,
    power: NDArray[np.float64],
    constants: Mapping[str, NDArray[np.generic]],
) -> float:
    """Noise over signal at a reader's outputs, from the steps of its input and of its weights."""
    if node.op_type != "Conv":
        return 0.0  # the classifier computes in float
    groups = attribute(node, "group", [1])[0]
    weight = np.asarray(constants[node.input[1]], np.float64)
    per_group = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    factor = factors.reshape(groups, 1, -1, 1)
    powers = power.reshape(groups, 1, -1, 1)
    scaled = per_group / factor
    weight_step = np.abs(scaled).max(axis=(2, 3)) / 127
    from_input = np.square(scaled).sum(axis=(2, 3)) * (reach / 255) ** 2 / 12
    inputs = (powers * factor**2).sum(axis=(2, 3)) * per_group.shape[3]
    from_weight = _ROUNDING_GAIN * weight_step**2 / 12 * inputs
    signal = (np.square(per_group) * powers).sum(axis=(2, 3))
    return float(((from_input + from_weight) / np.maximum(signal, 1e-20)).mean())


def _scale_filters(
    node: onnx.NodeProto, factors: NDArray[np.float64], constants: dict[str, NDArray[np.generic]]
) -> None:
    weight, bias = (np.asarray(constants[name], np.float64) for name in node.input[1:3])
    constants[node.input[1]] = np.asarray(weight * factors.reshape(-1, *[1] * (weight.ndim - 1)), np.float32)
    constants[node.input[2]] = np.asarray(bias * factors, np.float32)


def _scale_inputs(
    node: onnx.NodeProto, factors: NDArray[np.float64], constants: dict[str, NDArray[np.generic]]
) -> None:
    weight = np.asarray(constants[node.input[1]], np.float64)
    if node.op_type == "Gemm":
        shape = (1, -1) if attribute(node, "transB", [0])[0] else (-1, 1)
        constants[node.input[1]] = np.asarray(weight * factors.reshape(shape), np.float32)
        return
    groups = attribute(node, "group", [1])[0]
    per_group = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
    spread = factors.reshape(groups, 1, -1, *[1] * (_AXES - 2))
    constants[node.input[1]] = np.asarray((per_group * spread).reshape(weight.shape), np.float32)
