"""INT8 ranges: an FP32 model and representative frames in, a quantised Q/DQ model out.

The one adapter of `onnxruntime.quantization`; it runs without torch, so also on a robot. The "cpu" recipe uses unsigned
activations and per-channel signed weights, which ONNX Runtime fuses into integer convolutions. The first convolutions
see raw pixels through few, uneven filters, and the classifier decides: both can stay in float, and on bin photos they
must (measured on a MobileNetV2: 2.5 points of accuracy lost with all layers in INT8, 0.5 with the first six
convolutions and the classifier in float).
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bundle.manifest import ModelEntry

MIN_FRAMES = 16
"""Fewer frames than this say too little about the ranges of activations."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """An INT8 model.

    Attributes:
        model: Single-file ONNX, Q/DQ form.
        float_nodes: Nodes that were left in floating point.
    """

    model: bytes
    float_nodes: tuple[str, ...]


class _Feed:
    """Hands frames to ONNX Runtime one at a time, so that memory holds one activation set."""

    def __init__(self, name: str, tensors: NDArray[np.float32]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.float32]]] = ({name: tensor[np.newaxis]} for tensor in tensors)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._feeds, None)


def compute_nodes(model: bytes) -> tuple[list[str], list[str]]:
    """Name the nodes that quantisation is about.

    Args:
        model: A single-file ONNX model.

    Returns:
        Names of the convolutions and of the matrix products (the classifier), each in the order of execution.
    """
    import onnx

    graph = onnx.load_model_from_string(model).graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    return convolutions, [node.name for node in graph.node if node.op_type in {"Gemm", "MatMul"}]


def quantize_cpu(model: bytes, entry: ModelEntry, tensors_nchw: NDArray[np.float32], *, float_convs: int) -> Quantized:
    """Quantise for ONNX Runtime and OpenVINO.

    Args:
        model: The FP32 reference.
        entry: Its entry in the manifest.
        tensors_nchw: float32, (N, 3, H, W), preprocessed training frames, at least 16.
        float_convs: How many of the first convolutions stay in float; the classifier always does.

    Returns:
        The INT8 model and the nodes left in float.

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
    convolutions, classifier = compute_nodes(model)
    float_nodes = (*convolutions[:float_convs], *classifier)
    with tempfile.TemporaryDirectory(prefix="bintally-ranges-") as folder:
        source, prepared, target = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        source.write_bytes(model)
        _quantize_file(source, prepared, target, _Feed(entry.input, tensors_nchw), list(float_nodes))
        return Quantized(target.read_bytes(), float_nodes)


def _quantize_file(source: Path, prepared: Path, target: Path, feed: Any, exclude: list[str]) -> None:  # noqa: ANN401
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the library advises on the root logger while it follows its own advice
    try:
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            feed,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=exclude,
        )
    finally:
        logging.root.setLevel(level)
