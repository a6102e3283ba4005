"""The tiny brightness counter with a convolution in front, so that there are INT8 ranges to fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bundle.engines.ort import OrtEngine
from bundle.golden import GOLDEN_NAME, encode_golden, infer_frames
from bundle.manifest import ModelEntry, Preprocessing
from bundle.preprocess import normalize_batch, resize
from calibration.int8.quantize import Recipe, prepare, quantize
from tests.calibration.scenes import scene
from tests.simulators.bundle_factory import CLASSES, SIZE, brightness_for, grey, make_bundle, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

_SHARPNESS = 400.0
_SPEC = Preprocessing(size_wh=(SIZE, SIZE), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_ENTRY = ModelEntry(role="reference", file="model.fp32.onnx", precision="fp32", opset=17)


def _model() -> bytes:
    """Two 1x1 convolutions that keep the mean colour, then the linear counter of tests.simulators.bundle_factory."""
    channels = 8
    centres = np.array([brightness_for(k) / 255 for k in range(len(CLASSES))], np.float32)
    widen = np.full((channels, 3, 1, 1), 1 / 3, np.float32) * np.linspace(0.8, 1.2, channels).reshape(-1, 1, 1, 1)
    keep = np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1)
    weight = (2 * _SHARPNESS * centres / channels)[np.newaxis].repeat(channels, axis=0).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "widen", "zero"], ["c0"], "conv0"),
        helper.make_node("Relu", ["c0"], ["r0"], "relu0"),
        helper.make_node("Conv", ["r0", "keep", "zero"], ["c1"], "conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("GlobalAveragePool", ["r1"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"], "classifier"),
    ]
    tensors = [
        numpy_helper.from_array(widen.astype(np.float32), "widen"),
        numpy_helper.from_array(keep, "keep"),
        numpy_helper.from_array(np.zeros(channels, np.float32), "zero"),
        numpy_helper.from_array(weight, "weight"),
        numpy_helper.from_array((-_SHARPNESS * centres**2).astype(np.float32), "bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_conv_bundle(folder: Path) -> Path:
    """Write a valid bundle whose INT8 model was made from scenes."""
    make_bundle(folder)
    rng = np.random.default_rng(0)
    pictures = np.stack([resize(scene(rng, count % 6), _SPEC) for count in range(48)])
    reference = _model()
    quantized = quantize(prepare(reference, normalize_batch(pictures, _SPEC)), Recipe("cpu", "minmax"))
    (folder / "model.fp32.onnx").write_bytes(reference)
    (folder / "model.cpu.onnx").write_bytes(quantized.model)
    frames = np.stack([grey(count) for count in (0, 2, 3.5, 6)])
    logits = {}
    for role, data in (("reference", reference), ("cpu", quantized.model)):
        with OrtEngine(data, _ENTRY, _SPEC, classes=len(CLASSES)) as engine:
            logits[role] = infer_frames(engine, frames, _SPEC)
    (folder / GOLDEN_NAME).write_bytes(encode_golden(frames, logits, {"reference": 0.05, "cpu": 1.0}))
    content = json.loads((folder / "manifest.json").read_text())
    content["models"][1]["float_nodes"] = list(quantized.float_nodes)
    write_manifest(folder, content)
    return folder
