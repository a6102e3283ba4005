"""FP32 model and frames in, INT8 models out; and which convolutions suffer most from it.

The expensive part, looking at frames, is done once (`prepare`); every recipe after it costs a second or so, which is
what makes it cheap to compare range methods and to find out which convolutions should stay in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from calibration.int8.equalize import equalize
from calibration.int8.graph import Graph, normal_form
from calibration.int8.qdq import Filters, write_int8
from calibration.int8.ranges import Observed, RangeMethod, observe
from calibration.int8.rounding import corrected_bias, round_to_nearest, round_together, weight_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx
    from numpy.typing import NDArray

    from calibration.int8.placement import Dialect

Technique = Literal["equalize", "round_together", "correct_bias"]
TECHNIQUES: frozenset[Technique] = frozenset({"equalize", "round_together", "correct_bias"})
"""What is done to a network's weights before they become integers; docs/int8.md says what each of them brings."""
_EQUALIZE_FRAMES = 64


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model becomes INT8.

    Attributes:
        dialect: Who shall run it.
        method: How histograms become ranges.
        float_convolutions: Names of the convolutions left in float.
    """

    dialect: Dialect
    method: RangeMethod = "minmax"
    float_convolutions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Quantized:
    """An INT8 model.

    Attributes:
        model: Single-file ONNX, Q/DQ form.
        float_nodes: Convolutions and matrix products that compute in float.
    """

    model: bytes
    float_nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything about a network that recipes share.

    Attributes:
        model: FP32, in normal form.
        convolutions: Names, in the order of execution.
        products: Names of the matrix products, which stay in float.
        observed: What frames did in it.
        filters: Rounded weights by convolution.
    """

    model: onnx.ModelProto
    convolutions: tuple[str, ...]
    products: tuple[str, ...]
    observed: Observed
    filters: Mapping[str, Filters]


def prepare(
    model: bytes, tensors_nchw: NDArray[np.float32], *, techniques: frozenset[Technique] = TECHNIQUES
) -> Prepared:
    """Look at frames inside a network and round its weights.

    Args:
        model: The FP32 reference.
        tensors_nchw: float32, (N, 3, H, W), preprocessed training frames, at least 16.
        techniques: "equalize" scales channels so that quiet ones keep their digits, "round_together" lets the errors
            of a filter cancel on the frames, "correct_bias" moves what remains of their mean into the bias. Fewer than
            all of them is for comparison.

    Returns:
        What recipes work on.

    Raises:
        InputError: There are too few frames, or the network cannot be quantised.
    """
    normal = normal_form(model)
    if "equalize" in techniques:
        normal = equalize(normal, tensors_nchw[:: max(1, len(tensors_nchw) // _EQUALIZE_FRAMES)])
    return round_weights(normal, observe(normal, tensors_nchw), techniques)


def round_weights(
    model: onnx.ModelProto, observed: Observed, techniques: frozenset[Technique] = TECHNIQUES
) -> Prepared:
    """Round the weights of a network whose activations were looked at.

    Args:
        model: FP32, in normal form.
        observed: What frames did in it.
        techniques: As for `prepare`; "equalize" is not done here.

    Returns:
        What recipes work on.
    """
    graph = Graph(model)
    filters = {node.name: _filters(graph, node, observed, techniques) for node in graph.convolutions()}
    products = tuple(node.name for node in graph.products())
    return Prepared(model, tuple(filters), products, observed, filters)


def _filters(graph: Graph, node: onnx.NodeProto, observed: Observed, techniques: frozenset[Technique]) -> Filters:
    weight = np.asarray(graph.constants[node.input[1]], np.float32)
    bias = np.asarray(graph.constants[node.input[2]], np.float32)
    scales, moments = weight_scales(weight), observed.moments.get(node.name)
    if moments is None:
        return Filters(round_to_nearest(weight, scales), scales, bias)
    together = "round_together" in techniques
    rounded = round_together(weight, scales, moments) if together else round_to_nearest(weight, scales)
    if "correct_bias" in techniques:
        meant = rounded * scales.reshape(-1, *[1] * (weight.ndim - 1))
        bias = corrected_bias(bias, weight, meant, moments)
    return Filters(rounded, scales, bias)


def quantize(prepared: Prepared, recipe: Recipe) -> Quantized:
    """Write one INT8 model.

    Args:
        prepared: Of `prepare`.
        recipe: What to write.

    Returns:
        The model, and what computes in float in it.
    """
    integer = {name: prepared.filters[name] for name in prepared.convolutions if name not in recipe.float_convolutions}
    model = write_int8(prepared.model, recipe.dialect, prepared.observed.ranges(recipe.method), integer)
    left = tuple(name for name in prepared.convolutions if name not in integer)
    return Quantized(model, (*left, *prepared.products))


def most_sensitive(prepared: Prepared, recipe: Recipe, distance: Callable[[bytes], float]) -> list[str]:
    """Rank convolutions by the harm that each does when it alone is INT8.

    Args:
        prepared: Of `prepare`.
        recipe: Dialect and ranges.
        distance: How far a model is from the reference.

    Returns:
        Names of all convolutions, the worst first.
    """
    harm: dict[str, float] = {}
    everything = frozenset(prepared.convolutions)
    for name in prepared.convolutions:
        alone = Recipe(recipe.dialect, recipe.method, everything - {name})
        harm[name] = distance(quantize(prepared, alone).model)
    return sorted(harm, key=harm.__getitem__, reverse=True)
