"""What of a bundle is written about its models: golden frames and the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.drift import DRIFT_NAME
from bundle.engines.ort import OrtEngine
from bundle.golden import encode_golden, infer_frames
from bundle.manifest import FORMAT_VERSION, Manifest, Parity, Provenance
from bundle.pack import file_entry
from bundle.version import VERSION
from export.options import entries_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bundle.manifest import Calibration, ModelEntry
    from calibration.int8.placement import Dialect
    from export.options import Options
    from export.quantize import Attempt
    from train.run import Run

MINIMUM_AGENT = "0.1.0"
_TOLERANCES = {"reference": 1e-3, "cpu": 5e-2, "tensorrt": 5e-2}
"""Largest error of a logit on the golden frames, as a share of the largest logit."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was found out about the model that robots run.

    Attributes:
        calibration: Its confidence.
        measured: Its figures, see `train.metrics.measure`.
    """

    calibration: Calibration
    measured: dict[str, Any]


def golden_file(models: dict[str, bytes], entries: Sequence[ModelEntry], run: Run, frames: NDArray[np.uint8]) -> bytes:
    """Golden frames with what every model says about them.

    Args:
        models: ONNX by file name.
        entries: Of the models.
        run: Says how pixels become the network's input.
        frames: uint8, (N, H, W, 3), BGR.

    Returns:
        The content of golden.npz.

    Raises:
        EngineError: A model does not run.
    """
    logits: dict[str, NDArray[np.float32]] = {}
    tolerances: dict[str, float] = {}
    for entry in entries:
        with OrtEngine(models[entry.file], entry, run.preprocessing, classes=len(run.classes)) as engine:
            logits[entry.role] = infer_frames(engine, frames, run.preprocessing)
        tolerances[entry.role] = _TOLERANCES[entry.role] * max(1.0, float(np.abs(logits[entry.role]).max()))
    return encode_golden(frames, logits, tolerances)


def manifest_of(
    run: Run, options: Options, chosen: dict[Dialect, Attempt], fitted: Fitted, files: dict[str, bytes]
) -> Manifest:
    """The manifest of a new bundle.

    Args:
        run: The trained run.
        options: What a person decided.
        chosen: INT8 models by dialect.
        fitted: Of the model that robots run.
        files: Content of every other file by name.

    Returns:
        The manifest.
    """
    left = {role: attempt.quantized.float_nodes for role, attempt in chosen.items()}
    models = [
        entry.model_copy(update={"float_nodes": left[entry.role]}) if entry.role in left else entry
        for entry in entries_of(options).values()
    ]
    figures = ("n", "accuracy", "within_1", "mae", "rmse", "macro_f1", "ece")
    return Manifest(
        format_version=FORMAT_VERSION,
        name=options.name,
        version=options.version,
        created=datetime.now(timezone.utc).replace(microsecond=0),
        count_classes=run.classes,
        preprocessing=run.preprocessing,
        models=tuple(models),
        calibration=fitted.calibration,
        parity=Parity(budget=options.budget, results=tuple(attempt.result for attempt in chosen.values())),
        metrics={key: float(fitted.measured[key]) for key in figures},
        provenance=Provenance(
            dataset_sha256=run.dataset_sha256,
            dataset=options.data,
            config_sha256=run.config_sha256,
            code_version=VERSION,
            model=run.config.model.name,
            initial_weights=run.initial_weights,
        ),
        licence=options.licence,
        minimum_agent=MINIMUM_AGENT,
        drift=DRIFT_NAME if DRIFT_NAME in files else None,
        files={name: file_entry(data) for name, data in files.items()},
    )
