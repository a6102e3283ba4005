"""Bundles of networks with random weights, quantised as `bintally export` does, for benchmarks of speed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.engines.ort import OrtEngine
from bundle.golden import GOLDEN_NAME, encode_golden, infer_frames
from bundle.manifest import Manifest, ModelEntry, Preprocessing
from bundle.pack import file_entry, pack

if TYPE_CHECKING:
    from pathlib import Path

    from bundle.verify import Bundle

CLASSES = ("0", "1", "2", "3", "4", "5", "6+")
SPEC = Preprocessing()
ENTRIES = {
    "reference": ModelEntry(role="reference", file="model.fp32.onnx", precision="fp32", opset=17),
    "cpu": ModelEntry(role="cpu", file="model.cpu.onnx", precision="int8", opset=17),
    "tensorrt": ModelEntry(role="tensorrt", file="model.trt.onnx", precision="int8", opset=17),
}


def make_bundle(network: str, folder: Path) -> Bundle:
    """Export a network with random weights, and quantise it."""
    import torch
    import torchvision

    from calibration.int8.quantize import Recipe, prepare, quantize
    from export.to_onnx import export_onnx

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    frames = rng.normal(0, 1, (16, 3, 224, 224)).astype(np.float32)
    reference = export_onnx(torchvision.models.get_model(network, num_classes=len(CLASSES)), SPEC)
    prepared = prepare(reference, frames)
    models = {
        "reference": reference,
        "cpu": quantize(prepared, Recipe("cpu")).model,
        "tensorrt": quantize(prepared, Recipe("tensorrt")).model,
    }
    files = {ENTRIES[role].file: data for role, data in models.items()}
    golden = rng.integers(0, 256, (2, 240, 320, 3), dtype=np.uint8)
    logits = {}
    for role, data in models.items():
        with OrtEngine(data, ENTRIES[role], SPEC, classes=len(CLASSES)) as engine:
            logits[role] = infer_frames(engine, golden, SPEC)
    # Random weights leave logits that hardly differ from frame to frame; what is compared here is speed.
    tolerances = {role: 0.2 * float(np.abs(value).max()) for role, value in logits.items()}
    files[GOLDEN_NAME] = encode_golden(golden, logits, tolerances)
    return pack(folder, _manifest(network, files), files)


def _manifest(network: str, files: dict[str, bytes]) -> Manifest:
    digest = "0" * 64
    content: dict[str, Any] = {
        "format_version": 1,
        "name": "benchmark",
        "version": "0.0.0",
        "created": datetime.now(timezone.utc),
        "count_classes": CLASSES,
        "preprocessing": SPEC,
        "models": tuple(ENTRIES.values()),
        "calibration": {"fitted_on": "cpu", "threshold": 1.0},
        "parity": {"budget": {"min_agreement": 0, "max_mean_tv": 1, "max_accuracy_drop": 1}, "results": ()},
        "metrics": {},
        "provenance": {
            "dataset_sha256": digest,
            "dataset": "none",
            "config_sha256": digest,
            "code_version": "0",
            "model": network,
            "initial_weights": "random",
        },
        "licence": "Apache-2.0",
        "minimum_agent": "0.1.0",
        "files": {name: file_entry(data) for name, data in files.items()},
    }
    return Manifest.model_validate(content)
