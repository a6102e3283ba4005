"""What representative frames do inside a network: the range of every activation, and how weights' errors would show.

One pass finds the extremes, a second one fills histograms between them and adds up second moments of the convolutions'
inputs. Memory holds one frame's activations at a time. How a histogram becomes a range is a choice (`range_of`): none
is best on every network, so the export tries them on frames and keeps the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bundle.errors import InputError
from calibration.int8.graph import Graph, attribute
from calibration.int8.taps import Taps

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx
    from numpy.typing import NDArray

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]
RANGE_METHODS: tuple[RangeMethod, ...] = ("minmax", "percentile", "entropy", "mse")

MIN_FRAMES = 16
"""Fewer frames than this say too little about the ranges of activations."""
BINS = 2048
_WIDEST = 1300
_MOMENT_FRAMES = 48
_MOMENT_POSITIONS = 196
_HISTOGRAM_VALUES = 1 << 16
_TENSOR_AXES = 4
_PERCENTILE = 0.9999
_ENTROPY_LEVELS = 128
_STEPS = 64
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Activation:
    """How one tensor's values are distributed.

    Attributes:
        low: Smallest value seen.
        high: Largest value seen.
        histogram: int64, (2048,), counts between low and high.
    """

    low: float
    high: float
    histogram: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What a convolution's weights are multiplied with; I values per output value and group.

    Attributes:
        mean: float64, (G, I).
        covariance: float64, (G, I, I).
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observed:
    """What the frames did.

    Attributes:
        activations: By tensor.
        moments: By name of the convolution; very wide ones are left out, their rounding errors average out.
    """

    activations: Mapping[str, Activation]
    moments: Mapping[str, Moments]

    def ranges(self, method: RangeMethod) -> dict[str, tuple[float, float]]:
        """A range for every tensor.

        Args:
            method: See `range_of`.

        Returns:
            Smallest and largest value by tensor.
        """
        return {name: range_of(activation, method) for name, activation in self.activations.items()}


def observe(model: onnx.ModelProto, tensors_nchw: NDArray[np.float32]) -> Observed:
    """Run frames through a network and look at its activations.

    Args:
        model: FP32, in normal form.
        tensors_nchw: float32, (N, 3, H, W), preprocessed, at least 16.

    Returns:
        What was seen.

    Raises:
        InputError: There are too few frames.
    """
    if len(tensors_nchw) < MIN_FRAMES:
        raise InputError(
            "too few frames to find INT8 ranges",
            got=len(tensors_nchw),
            expected=f"at least {MIN_FRAMES}",
            fix="Name a dataset with more training photos.",
        )
    graph = Graph(model)
    names = observed_tensors(graph)
    runs = Taps(model, names)
    lows, highs = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for arrays in runs(tensors_nchw):
        lows = np.minimum(lows, [array.min() for array in arrays])
        highs = np.maximum(highs, [array.max() for array in arrays])
    highs = np.maximum(highs, lows + _TINY + 1e-6 * np.abs(lows))
    histograms = np.zeros((len(names), BINS), np.int64)
    moments = _Sums(graph)
    stride = max(1, len(tensors_nchw) // _MOMENT_FRAMES)
    for frame, arrays in enumerate(runs(tensors_nchw)):
        for row, array in enumerate(arrays):
            histograms[row] += _histogram(array, float(lows[row]), float(highs[row]))
        if frame % stride == 0:
            moments.add(dict(zip(names, arrays, strict=True)))
    seen = {name: Activation(float(lows[row]), float(highs[row]), histograms[row]) for row, name in enumerate(names)}
    return Observed(seen, moments.finish())


def observed_tensors(graph: Graph) -> list[str]:
    """Tensors whose range an INT8 model may need.

    Args:
        graph: Of the network.

    Returns:
        What convolutions, additions, poolings and concatenations read, and what they make once its activation function
        is applied.
    """
    names: dict[str, None] = {}
    for node in graph.nodes:
        if node.op_type in {"Conv", "Add", "MaxPool", "Concat", "AveragePool"}:
            names |= dict.fromkeys(name for name in node.input if name not in graph.constants)
            names[graph.after_activation(node.output[0])] = None
    return [name for name in names if name]


def _histogram(array: NDArray[np.float32], low: float, high: float) -> NDArray[np.int64]:
    values = array.ravel()
    values = values[:: max(1, values.size // _HISTOGRAM_VALUES)]
    scaled = (values - np.float32(low)) * np.float32(BINS / (high - low))
    return np.bincount(np.clip(scaled, 0, BINS - 1).astype(np.int32), minlength=BINS)


class _Sums:
    """Adds up first and second moments of the patches that each convolution reads."""

    def __init__(self, graph: Graph) -> None:
        self._convolutions = [node for node in graph.convolutions() if _inner_size(graph, node) <= _WIDEST]
        self._shapes = {node.name: graph.constants[node.input[1]].shape for node in self._convolutions}
        self._sums: dict[str, tuple[int, NDArray[np.float64], NDArray[np.float64]]] = {}

    def add(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        for node in self._convolutions:
            array = arrays[node.input[0]]
            if array.ndim != _TENSOR_AXES:
                continue
            patches = convolution_patches(array, node, self._shapes[node.name])
            first = patches.sum(axis=1, dtype=np.float64)
            second = np.matmul(patches.transpose(0, 2, 1), patches).astype(np.float64)
            count, old_first, old_second = self._sums.get(node.name, (0, np.zeros(1), np.zeros(1)))
            self._sums[node.name] = (count + patches.shape[1], old_first + first, old_second + second)

    def finish(self) -> dict[str, Moments]:
        found = {}
        for name, (count, first, second) in self._sums.items():
            mean = first / count
            found[name] = Moments(mean, second / count - mean[:, :, np.newaxis] * mean[:, np.newaxis, :])
        return found


def _inner_size(graph: Graph, node: onnx.NodeProto) -> int:
    return int(np.prod(graph.constants[node.input[1]].shape[1:]))


def convolution_patches(
    array: NDArray[np.float32], node: onnx.NodeProto, weight_shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """The values that a convolution's weights are multiplied with, at evenly spread positions.

    Args:
        array: float32, (1, C, H, W), the convolution's input.
        node: The convolution.
        weight_shape: (O, C / groups, kh, kw).

    Returns:
        float32, (G, positions, I), I = C / groups * kh * kw, in the weight's order; at most 196 positions.
    """
    groups = attribute(node, "group", [1])[0]
    (stride_h, stride_w), (dil_h, dil_w) = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
    kernel_h, kernel_w = weight_shape[2:]
    padded = np.pad(array[0], ((0, 0), (top, bottom), (left, right)))
    window = ((kernel_h - 1) * dil_h + 1, (kernel_w - 1) * dil_w + 1)
    views = np.lib.stride_tricks.sliding_window_view(padded, window, axis=(1, 2))
    views = views[:, ::stride_h, ::stride_w, ::dil_h, ::dil_w]
    rows, columns = views.shape[1:3]
    chosen = np.linspace(0, rows * columns - 1, min(rows * columns, _MOMENT_POSITIONS)).astype(np.int64)
    patches = views[:, chosen // columns, chosen % columns]
    grouped = patches.reshape(groups, array.shape[1] // groups, len(chosen), kernel_h * kernel_w)
    return np.ascontiguousarray(grouped.transpose(0, 2, 1, 3)).reshape(groups, len(chosen), -1)


def range_of(activation: Activation, method: RangeMethod) -> tuple[float, float]:
    """The values that shall be told apart; what lies outside is clipped.

    Args:
        activation: What was seen.
        method: "minmax" clips nothing; "percentile" clips the outermost 0.01 %; "entropy" loses the least information
            on the distribution (as TensorRT's calibrator did); "mse" has the smallest mean squared error.

    Returns:
        Smallest and largest value.
    """
    if method == "minmax":
        return activation.low, activation.high
    edges = np.linspace(activation.low, activation.high, BINS + 1)
    if method == "percentile":
        shares = np.cumsum(activation.histogram) / max(1, activation.histogram.sum())
        low = edges[int(np.searchsorted(shares, 1 - _PERCENTILE))] if activation.low < 0 else activation.low
        return float(low), float(edges[min(BINS, int(np.searchsorted(shares, _PERCENTILE)) + 1)])
    limit = _best_limit((edges[:-1] + edges[1:]) / 2, activation.histogram, method)
    return max(activation.low, -limit), min(activation.high, limit)


def _best_limit(centres: NDArray[np.float64], counts: NDArray[np.int64], method: RangeMethod) -> float:
    """Largest magnitude to keep, by trying some between an eighth of the extreme and the extreme."""
    largest = float(np.abs(centres).max()) + _TINY
    magnitudes = np.histogram(np.abs(centres), bins=BINS, range=(0, largest), weights=counts)[0]
    magnitudes[0] = magnitudes[1]  # the zeros that a Relu makes are exact at any scale, and would drown the rest
    loss = _divergence if method == "entropy" else _squared_error
    tried = np.linspace(BINS // 8, BINS, _STEPS).astype(np.int64)
    losses = [loss(magnitudes, int(kept)) for kept in tried]
    return float(tried[int(np.argmin(losses))]) / BINS * largest


def _divergence(magnitudes: NDArray[np.float64], kept: int) -> float:
    """Kullback-Leibler divergence of the quantised from the clipped distribution."""
    clipped = magnitudes[:kept].copy()
    clipped[-1] += magnitudes[kept:].sum()
    group = np.minimum(np.arange(kept) * _ENTROPY_LEVELS // kept, _ENTROPY_LEVELS - 1)
    filled = magnitudes[:kept] > 0
    totals = np.bincount(group, weights=magnitudes[:kept], minlength=_ENTROPY_LEVELS)
    sizes = np.bincount(group, weights=filled, minlength=_ENTROPY_LEVELS)
    spread = np.where(filled, (totals / np.maximum(sizes, 1))[group], 0.0)
    p, q = clipped / max(clipped.sum(), _TINY), spread / max(spread.sum(), _TINY)
    both = p > 0
    return float((p[both] * np.log(p[both] / np.maximum(q[both], _TINY))).sum())


def _squared_error(magnitudes: NDArray[np.float64], kept: int) -> float:
    """Rounding error of what is kept plus the error of what is clipped, in bins."""
    step = kept / 127
    beyond = np.arange(kept, len(magnitudes)) - kept + 0.5
    return float(magnitudes[:kept].sum() * step**2 / 12 + (magnitudes[kept:] * beyond**2).sum())
