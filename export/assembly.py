"""What was made becomes a bundle: models, golden frames, reference of drift, card and manifest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.drift import DRIFT_NAME
from bundle.engines.ort import OrtEngine
from bundle.golden import GOLDEN_NAME, encode_golden, infer_frames
from bundle.manifest import FORMAT_VERSION, Manifest, Parity, Provenance
from bundle.pack import file_entry, pack
from bundle.version import VERSION
from calibration.reference import reference_of_pictures
from export.card import model_card
from export.frames import golden_frames
from export.material import spread
from export.options import entries_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import Calibration
    from bundle.verify import Bundle
    from calibration.int8.placement import Dialect
    from export.material import Material
    from export.options import Options
    from export.quantize import Attempt
    from train.run import Run

MINIMUM_AGENT = "0.1.0"
_GOLDEN_FRAMES = 4
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


@dataclass(frozen=True, slots=True)
class Made:
    """Everything that a bundle is packed from.

    Attributes:
        run: The trained run.
        options: What a person decided.
        material: Photos by purpose.
        reference: The FP32 network as ONNX.
        chosen: INT8 models by dialect.
        fitted: Of the model that robots run.
    """

    run: Run
    options: Options
    material: Material
    reference: bytes
    chosen: dict[Dialect, Attempt]
    fitted: Fitted


def pack_bundle(out: Path, made: Made) -> Bundle:
    """Write the bundle: models, golden frames, reference of drift where the photos suffice, model card, manifest.

    Args:
        out: Folder of the new bundle; must not exist.
        made: What to pack.

    Returns:
        The bundle, read back and verified.

    Raises:
        ConfigError: `out` exists.
        EngineError: A model does not run.
    """
    files = _models(made)
    files[GOLDEN_NAME] = _golden(made, files)
    drift = reference_of_pictures(made.material.validation.pixels, made.chosen["cpu"].logits, made.fitted.calibration)
    if drift is not None:
        files[DRIFT_NAME] = (drift.model_dump_json() + "\n").encode()
    manifest = _manifest(made, files)
    files["card.md"] = model_card(manifest, made.fitted.measured, measured_on=_measured_on(made)).encode()
    listed = {name: file_entry(data) for name, data in files.items()}
    return pack(out, manifest.model_copy(update={"files": listed}), files)


def _models(made: Made) -> dict[str, bytes]:
    entries = entries_of(made.options)
    models = {"reference": made.reference}
    models |= {dialect: attempt.quantized.model for dialect, attempt in made.chosen.items()}
    return {entries[role].file: data for role, data in models.items()}


def _golden(made: Made, models: dict[str, bytes]) -> bytes:
    """Golden frames with what every model says about them."""
    run, material = made.run, made.material
    frames = golden_frames(material.dataset, spread(material.validation.rows, _GOLDEN_FRAMES))
    logits: dict[str, NDArray[np.float32]] = {}
    tolerances: dict[str, float] = {}
    for role, entry in entries_of(made.options).items():
        with OrtEngine(models[entry.file], entry, run.preprocessing, classes=len(run.classes)) as engine:
            logits[role] = infer_frames(engine, frames, run.preprocessing)
        tolerances[role] = _TOLERANCES[role] * max(1.0, float(np.abs(logits[role]).max()))
    return encode_golden(frames, logits, tolerances)


def _measured_on(made: Made) -> str:
    split = made.material.measured_on
    same = "" if split == "test" else " (the confidence was fitted on the same photos)"
    twice = ", each frame looked at together with its mirror image" if made.options.tta else ""
    return f"the {split} split of {made.options.data}{same}{twice}"


def _manifest(made: Made, files: dict[str, bytes]) -> Manifest:
    run, options, fitted = made.run, made.options, made.fitted
    left = {role: attempt.quantized.float_nodes for role, attempt in made.chosen.items()}
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
        parity=Parity(budget=options.budget, results=tuple(attempt.result for attempt in made.chosen.values())),
        metrics={key: float(fitted.measured[key]) for key in figures},
        provenance=Provenance(
            dataset_sha256=run.dataset_sha256,
            dataset=options.data,
            config_sha256=run.config_sha256,
            code_version=VERSION,
            model=run.network,
            initial_weights=run.initial_weights,
        ),
        licence=options.licence,
        minimum_agent=MINIMUM_AGENT,
        drift=DRIFT_NAME if DRIFT_NAME in files else None,
        files={name: file_entry(data) for name, data in files.items()},
    )
