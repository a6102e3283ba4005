"""Tiny bundles whose answer is known: the model reads nothing but the mean brightness of the picture.

`make_bundle(folder)` writes a complete, valid bundle with an FP32 and a "cpu" model (the same small ONNX graph). A
picture whose every pixel is `brightness_for(count)` is counted as `count` with high confidence; a brightness half-way
between two counts is unsure.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bundle.engines.ort import OrtEngine
from bundle.golden import GOLDEN_NAME, encode_golden, infer_frames, read_golden
from bundle.manifest import ModelEntry, Preprocessing
from bundle.verify import load_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CLASSES = ("0", "1", "2", "3", "4", "5", "6+")
SIZE = 32
_SHARPNESS = 400.0
_PREPROCESSING = Preprocessing(size_wh=(SIZE, SIZE), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def brightness_for(count: float) -> int:
    """Grey value whose picture the model counts as `count` (halves are unsure)."""
    return round(20 + 30 * count)


def grey(count: float, size_wh: tuple[int, int] = (64, 48)) -> NDArray[np.uint8]:
    """A picture that the model counts as `count`: uint8, (H, W, 3), BGR."""
    return np.full((size_wh[1], size_wh[0], 3), brightness_for(count), np.uint8)


def make_model(classes: int = len(CLASSES)) -> bytes:
    """ONNX bytes: logit[k] = -sharpness * (mean - centre[k])^2 without the common term, so linear in the mean."""
    centres = np.array([brightness_for(k) / 255 for k in range(classes)], np.float32)
    weight = (2 * _SHARPNESS * centres / 3)[np.newaxis].repeat(3, axis=0).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array((-_SHARPNESS * centres**2).astype(np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_bundle(folder: Path, *, threshold: float = 0.8, version: str = "1.0.0") -> Path:
    """Write a valid bundle and return its folder.

    Args:
        folder: Created; must not exist or must be empty.
        threshold: Confidence threshold of the bundle.
        version: Version of the bundle, so that two differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models = [
        {"role": "reference", "file": "model.fp32.onnx", "precision": "fp32", "opset": 17},
        {"role": "cpu", "file": "model.cpu.onnx", "precision": "int8", "opset": 17},
    ]
    for model in models:
        (folder / str(model["file"])).write_bytes(make_model())
    (folder / GOLDEN_NAME).write_bytes(_golden())
    (folder / "card.md").write_text("# A test bundle\n", encoding="utf-8")
    write_manifest(folder, _manifest(models, threshold, version))
    return folder


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Hash every file of `folder` into the manifest and write it, as an honest publisher would."""
    files = [file for file in sorted(folder.iterdir()) if file.name != "manifest.json"]
    content["files"] = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
        for file in files
    }
    (folder / "manifest.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def spoil_golden(folder: Path, role: str) -> None:
    """Let the golden frames expect other logits of one model, so that every engine that runs it is refused."""
    bundle = load_bundle(folder)
    logits, tolerances = {}, {}
    for name in ("reference", "cpu"):
        golden = read_golden(bundle, name)
        logits[name] = golden.logits + (1.0 if name == role else 0.0)
        tolerances[name] = golden.tolerance
    (folder / GOLDEN_NAME).write_bytes(encode_golden(golden.frames, logits, tolerances))
    write_manifest(folder, bundle.manifest.model_dump(mode="json"))


def _golden() -> bytes:
    frames = np.stack([grey(count) for count in (0, 2, 3.5, 6)])
    entry = ModelEntry(role="reference", file="model.fp32.onnx", precision="fp32", opset=17)
    with OrtEngine(make_model(), entry, _PREPROCESSING, classes=len(CLASSES)) as engine:
        logits = infer_frames(engine, frames, _PREPROCESSING)
    return encode_golden(frames, {"reference": logits, "cpu": logits}, {"reference": 1e-2, "cpu": 1e-2})


def _manifest(models: list[dict[str, Any]], threshold: float, version: str) -> dict[str, Any]:
    return {
        "format_version": 1,
        "name": "tiny",
        "version": version,
        "created": "2026-01-02T03:04:05Z",
        "count_classes": list(CLASSES),
        "preprocessing": _PREPROCESSING.model_dump(mode="json"),
        "models": models,
        "calibration": {"temperature": 1.0, "threshold": threshold, "fitted_on": "cpu", "promise": None},
        "parity": {"budget": {"min_agreement": 0.9, "max_mean_tv": 0.1, "max_accuracy_drop": 0.02}, "results": []},
        "metrics": {"accuracy": 1.0},
        "provenance": {
            "dataset_sha256": "0" * 64,
            "dataset": "grey pictures",
            "config_sha256": "0" * 64,
            "code_version": "0.1.0",
            "model": "mean",
            "initial_weights": "none",
        },
        "licence": "Apache-2.0",
        "minimum_agent": "0.1.0",
    }
