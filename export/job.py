"""A run in, a bundle out: ONNX -> INT8 -> parity -> confidence -> golden frames -> pack.

Nothing is packed that was not executed: the ONNX file is held against the torch network, each INT8 file against the
ONNX file, and the confidence is fitted on what the INT8 file says, because that is what the robot will say. ONNX
Runtime executes the TensorRT file too: its Q/DQ nodes say exactly what TensorRT has to compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.counter import posterior_from_logits
from bundle.drift import DRIFT_NAME
from bundle.engines.ort import OrtEngine
from bundle.errors import BundleError, ConfigError, InputError, ParityError
from bundle.golden import GOLDEN_NAME, encode_golden, infer_frames
from bundle.manifest import (
    FORMAT_VERSION,
    Manifest,
    ModelEntry,
    Parity,
    ParityBudget,
    Provenance,
)
from bundle.pack import file_entry, pack
from bundle.preprocess import normalize
from bundle.version import VERSION
from calibration.confidence import Labelled, calibrate
from calibration.int8.quantize import prepare
from calibration.reference import reference_of_pictures
from export.card import model_card
from export.frames import Frames, golden_frames, load_frames
from export.linter import lint_tensorrt
from export.quantize import Attempt, Judged, Search, quantize_within
from export.refusal import save_worst
from export.to_onnx import ROUTES, Target, export_onnx, infer_torch
from train.data.manifest import Dataset
from train.metrics import judge, measure
from train.run import Run, load_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import Calibration
    from bundle.verify import Bundle
    from calibration.int8.placement import Dialect

MINIMUM_AGENT = "0.1.0"
_GOLDEN_FRAMES = 4
_TORCH_FRAMES = 200
_EXPORT_TOLERANCE = 1e-3
_TOLERANCES = {"reference": 1e-3, "cpu": 5e-2, "tensorrt": 5e-2}
"""Largest error of a logit on the golden frames, as a share of the largest logit."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person decides about an export.

    Attributes:
        name: Of the bundle.
        version: Of the bundle, semantic.
        licence: SPDX expression or words; the photos' licence binds the model.
        data: The photos, in words.
        risk: Highest accepted share of wrong counts among the confident ones.
        budget: How far INT8 may be from the reference.
        float_convs: Most sensitive convolutions left in float; None takes as few as the budget allows.
        tensorrt: Also write the model for TensorRT.
        target: What the ONNX files must be readable by.
        range_frames: Training frames that INT8 is fitted on: three quarters for ranges, one to compare methods.
        judge_frames: Most frames of the validation and of the test split that are used.
    """

    name: str
    version: str
    licence: str
    data: str
    risk: float
    budget: ParityBudget
    float_convs: int | None = None
    tensorrt: bool = True
    target: Target = "any"
    range_frames: int = 256
    judge_frames: int = 2000


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export made.

    Attributes:
        bundle: The bundle, read back and verified.
        onnx_max_abs_logit: Largest logit difference between torch and ONNX.
        attempts: Every INT8 model that was tried; the last one of each dialect is in the bundle.
        measured: Figures of the cpu model, see `train.metrics.measure`.
        measured_on: Name of the split.
    """

    bundle: Bundle
    onnx_max_abs_logit: float
    attempts: tuple[Attempt, ...]
    measured: dict[str, Any]
    measured_on: str


def export_run(folder: Path, out: Path, options: Options, *, step: Callable[[str], None]) -> Exported:
    """Make a bundle from a finished run.

    Args:
        folder: The run.
        out: Folder of the new bundle; must not exist.
        options: What a person decides.
        step: Told in words what happens next.

    Returns:
        The bundle and what was measured on the way.

    Raises:
        InputError: The run or its dataset cannot be used.
        ParityError: ONNX or INT8 is too far from the trained network. No bundle is written then; where INT8 is to
            blame, OUT.refused holds the worst frames as pictures.
        ConfigError: `out` exists.
        BundleError: The TensorRT file breaks a rule of `export.linter`.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already", fix="Bundles are immutable: name a new folder, or remove this one.")
    step("reading the run and its photos")
    run = load_run(folder)
    dataset = _dataset_of(run)
    frames = _load(run, dataset, options)
    step("writing ONNX and holding it against the torch network")
    model = export_onnx(run.module, run.preprocessing, target=options.target)
    entries = _entries(options)
    reference = _logits(model, entries["reference"], run, frames.validation.pixels)
    onnx_error = _require_equal(run, frames.validation.pixels, reference)
    attempts = _quantize(run, model, frames, reference, options, step=step)
    chosen = {attempt.dialect: attempt for attempt in attempts}
    _require_within(chosen, out, frames.validation, reference, dataset, run)
    _require_lint(chosen, options)
    step("fitting the confidence on INT8 outputs")
    fitted = _fit(run, chosen["cpu"], entries["cpu"], frames, options.risk)
    step("packing and verifying")
    models = {"reference": model} | {dialect: attempt.quantized.model for dialect, attempt in chosen.items()}
    files = {entries[role].file: data for role, data in models.items()}
    golden = golden_frames(dataset, _spread(frames.validation.rows, _GOLDEN_FRAMES))
    files[GOLDEN_NAME] = _golden(files, list(entries.values()), run, golden)
    drift = reference_of_pictures(frames.validation.pixels, chosen["cpu"].logits, fitted.calibration)
    if drift is not None:
        files[DRIFT_NAME] = (drift.model_dump_json() + "\n").encode()
    manifest = _manifest(run, options, chosen, fitted, files)
    same = "" if frames.measured_on == "test" else " (the confidence was fitted on the same photos)"
    words = f"the {frames.measured_on} split of {options.data}{same}"
    files["card.md"] = model_card(manifest, fitted.measured, measured_on=words).encode()
    listed = {name: file_entry(data) for name, data in files.items()}
    bundle = pack(out, manifest.model_copy(update={"files": listed}), files)
    return Exported(bundle, onnx_error, tuple(attempts), fitted.measured, frames.measured_on)


@dataclass(frozen=True, slots=True)
class _Material:
    """Frames by purpose: INT8, parity and confidence, final figures."""

    ranges: Frames
    validation: Frames
    test: Frames
    measured_on: str


@dataclass(frozen=True, slots=True)
class _Fitted:
    """What was found out about the model that robots run."""

    calibration: Calibration
    measured: dict[str, Any]


def _entries(options: Options) -> dict[str, ModelEntry]:
    opset = ROUTES[options.target].opset
    entries = [
        ModelEntry(role="reference", file="model.fp32.onnx", precision="fp32", opset=opset),
        ModelEntry(role="cpu", file="model.cpu.onnx", precision="int8", opset=opset),
    ]
    if options.tensorrt:
        entries.append(ModelEntry(role="tensorrt", file="model.trt.onnx", precision="int8", opset=opset))
    return {entry.role: entry for entry in entries}


def _dataset_of(run: Run) -> Dataset:
    dataset = Dataset.open(run.dataset)
    if dataset.digest != run.dataset_sha256:
        raise InputError(
            f"dataset {run.dataset} is not the one that run {run.folder} learned from",
            got=dataset.digest[:12],
            expected=run.dataset_sha256[:12],
            fix="Restore that dataset: its training photos must not be measured on.",
        )
    return dataset


def _load(run: Run, dataset: Dataset, options: Options) -> _Material:
    def load(split: str, limit: int) -> Frames:
        return load_frames(dataset, split, run.classes, run.preprocessing, limit=limit)

    validation = load("val", options.judge_frames)
    measured_on = "test" if "test" in dataset.split_names() else "val"
    test = load("test", options.judge_frames) if measured_on == "test" else validation
    return _Material(load("train", options.range_frames), validation, test, measured_on)


def _logits(model: bytes, entry: ModelEntry, run: Run, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a model frame by frame, as a robot does."""
    with OrtEngine(model, entry, run.preprocessing, classes=len(run.classes)) as engine:
        return np.concatenate([engine.infer(normalize(image, run.preprocessing)[np.newaxis]) for image in pixels])


def _require_equal(run: Run, pixels: NDArray[np.uint8], onnx_logits: NDArray[np.float32]) -> float:
    chosen = _spread(np.arange(len(pixels)), min(_TORCH_FRAMES, len(pixels)))
    inputs = np.stack([normalize(pixels[index], run.preprocessing) for index in chosen])
    torch_logits = infer_torch(run.module, inputs)
    worst = float(np.abs(torch_logits - onnx_logits[chosen]).max())
    allowed = _EXPORT_TOLERANCE * max(1.0, float(np.abs(torch_logits).max()))
    if worst > allowed:
        raise ParityError(
            "the ONNX file does not compute what the torch network computes",
            got=f"a logit off by {worst:.3g}",
            expected=f"at most {allowed:.3g}",
            fix="Report the model's name and options: its export is wrong.",
        )
    return worst


def _quantize(
    run: Run,
    model: bytes,
    frames: _Material,
    reference: NDArray[np.float32],
    options: Options,
    *,
    step: Callable[[str], None],
) -> list[Attempt]:
    entries = _entries(options)
    tuning = np.arange(len(frames.ranges.rows)) % 4 == 3  # noqa: PLR2004 - every fourth frame compares methods
    pixels, truth = frames.ranges.pixels, frames.ranges.truth
    step(f"looking at {int((~tuning).sum())} training frames inside the network")
    inputs = np.stack([normalize(image, run.preprocessing) for image in pixels[~tuning]])
    search = Search(
        prepared=prepare(model, inputs),
        tuning=Judged(pixels[tuning], _logits(model, entries["reference"], run, pixels[tuning]), truth[tuning]),
        validation=Judged(frames.validation.pixels, reference, frames.validation.truth),
        budget=options.budget,
        infer=lambda data, dialect, images: _logits(data, entries[dialect], run, images),
        step=step,
    )
    dialects: Sequence[Dialect] = ("cpu", "tensorrt") if options.tensorrt else ("cpu",)
    return [
        attempt
        for dialect in dialects
        for attempt in quantize_within(search, dialect, float_convolutions=options.float_convs)
    ]


def _require_within(
    chosen: dict[Dialect, Attempt],
    out: Path,
    validation: Frames,
    reference: NDArray[np.float32],
    dataset: Dataset,
    run: Run,
) -> None:
    for attempt in chosen.values():
        if attempt.refusal is None:
            continue
        names = [dataset.id_of(row) for row in validation.rows]
        folder = save_worst(out.with_name(f"{out.name}.refused"), attempt, validation, reference, names, run.classes)
        raise ParityError(
            attempt.refusal.what, got=attempt.refusal.got, fix=f"{attempt.refusal.fix} The worst frames: {folder}"
        )


def _require_lint(chosen: dict[Dialect, Attempt], options: Options) -> None:
    if "tensorrt" not in chosen:
        return
    findings = lint_tensorrt(chosen["tensorrt"].quantized.model, max_opset=ROUTES[options.target].opset)
    if findings:
        raise BundleError(
            "the TensorRT file breaks rules that TensorRT needs kept",
            got="; ".join(f"{finding.rule}: {finding.node} {finding.message}" for finding in findings[:3]),
            fix="Report the model's name; --no-tensorrt exports for processors alone.",
        )


def _fit(run: Run, attempt: Attempt, entry: ModelEntry, frames: _Material, risk: float) -> _Fitted:
    calibration = calibrate(Labelled(attempt.logits, frames.validation.truth), fitted_on="cpu", risk=risk)
    logits = attempt.logits
    if frames.test is not frames.validation:
        logits = _logits(attempt.quantized.model, entry, run, frames.test.pixels)
    posterior = posterior_from_logits(logits, calibration.temperature, calibration.ordinal)
    return _Fitted(calibration, measure(judge(frames.test.truth, posterior, run.classes), run.classes))


def _spread(rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, number).astype(np.int64)]


def _golden(models: dict[str, bytes], entries: Sequence[ModelEntry], run: Run, frames: NDArray[np.uint8]) -> bytes:
    logits: dict[str, NDArray[np.float32]] = {}
    tolerances: dict[str, float] = {}
    for entry in entries:
        with OrtEngine(models[entry.file], entry, run.preprocessing, classes=len(run.classes)) as engine:
            logits[entry.role] = infer_frames(engine, frames, run.preprocessing)
        tolerances[entry.role] = _TOLERANCES[entry.role] * max(1.0, float(np.abs(logits[entry.role]).max()))
    return encode_golden(frames, logits, tolerances)


def _manifest(
    run: Run, options: Options, chosen: dict[Dialect, Attempt], fitted: _Fitted, files: dict[str, bytes]
) -> Manifest:
    left = {role: attempt.quantized.float_nodes for role, attempt in chosen.items()}
    models = [
        entry.model_copy(update={"float_nodes": left[entry.role]}) if entry.role in left else entry
        for entry in _entries(options).values()
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
