"""A run in, a bundle out: ONNX -> INT8 -> parity -> confidence -> golden frames -> pack.

Nothing is packed that was not executed: the ONNX file is held against the torch network, the INT8 file against the ONNX
file, and the confidence is fitted on what the INT8 file says, because that is what the robot will say.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.counter import posterior_from_logits
from bundle.engines.ort import OrtEngine
from bundle.errors import InputError, ParityError
from bundle.golden import GOLDEN_NAME, encode_golden, infer_frames
from bundle.manifest import (
    FORMAT_VERSION,
    Manifest,
    ModelEntry,
    Parity,
    ParityBudget,
    ParityResult,
    Provenance,
)
from bundle.parity import check_budget, compare
from calibration.confidence import Labelled, calibrate
from calibration.ranges import Quantized, compute_nodes, quantize_cpu
from export.card import model_card
from export.frames import Frames, golden_frames, load_frames
from export.pack import file_entry, pack
from export.to_onnx import OPSET, export_onnx, infer_torch
from train.data.manifest import Dataset
from train.metrics import judge, measure
from train.run import Run, load_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import Calibration
    from bundle.verify import Bundle

MINIMUM_AGENT = "0.1.0"
_FLOAT_CONVS = (0, 3, 6, 9, 12)
_GOLDEN_FRAMES = 4
_EXPORT_TOLERANCE = 1e-3
_REFERENCE_TOLERANCE, _INT8_TOLERANCE = 1e-3, 5e-2
_REFERENCE = ModelEntry(role="reference", file="model.fp32.onnx", precision="fp32", opset=OPSET)
_CPU = ModelEntry(role="cpu", file="model.cpu.onnx", precision="int8", opset=OPSET)


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
        float_convs: First convolutions left in float; None tries 0, 3, 6, 9 and 12 and takes the first within budget.
        range_frames: Training frames that INT8 ranges are taken from.
        judge_frames: Most frames of the validation and of the test split that are used.
    """

    name: str
    version: str
    licence: str
    data: str
    risk: float
    budget: ParityBudget
    float_convs: int | None = None
    range_frames: int = 256
    judge_frames: int = 2000


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export made.

    Attributes:
        bundle: The bundle, read back and verified.
        onnx_max_abs_logit: Largest logit difference between torch and ONNX.
        tried: Parity of every quantisation that was tried, by the number of convolutions left in float.
        measured: Figures of the INT8 model, see `train.metrics.measure`.
        measured_on: Name of the split.
    """

    bundle: Bundle
    onnx_max_abs_logit: float
    tried: dict[int, ParityResult]
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
        ParityError: ONNX or INT8 is too far from the trained network; nothing is written then.
        ConfigError: `out` exists.
    """
    step("reading the run and its photos")
    run = load_run(folder)
    dataset = _dataset_of(run)
    frames = _load(run, dataset, options)
    step("writing ONNX and holding it against the torch network")
    inputs = frames.validation.tensors(run.preprocessing)
    model = export_onnx(run.module, run.preprocessing)
    reference = _logits(model, _REFERENCE, run, inputs)
    onnx_error = _require_equal(infer_torch(run.module, inputs), reference)
    quantized, tried = _quantize(run, model, frames, reference, options, step=step)
    step("fitting the confidence on INT8 outputs")
    fitted = _fit(run, quantized, frames, list(tried.values())[-1], options.risk)
    step("packing and verifying")
    golden = golden_frames(dataset, _spread(frames.validation.rows, _GOLDEN_FRAMES))
    files = {_REFERENCE.file: model, _CPU.file: quantized.model}
    files[GOLDEN_NAME] = _golden(files, run, golden)
    manifest = _manifest(run, options, fitted, files)
    words = f"the {frames.measured_on} split of {options.data}"
    files["card.md"] = model_card(manifest, fitted.measured, measured_on=words).encode()
    listed = {name: file_entry(data) for name, data in files.items()}
    bundle = pack(out, manifest.model_copy(update={"files": listed}), files)
    return Exported(bundle, onnx_error, tried, fitted.measured, frames.measured_on)


@dataclass(frozen=True, slots=True)
class _Material:
    """Frames by purpose: INT8 ranges, parity and confidence, final figures."""

    ranges: Frames
    validation: Frames
    test: Frames
    measured_on: str


@dataclass(frozen=True, slots=True)
class _Fitted:
    """What was found out about the INT8 model."""

    entry: ModelEntry
    parity: ParityResult
    calibration: Calibration
    measured: dict[str, Any]


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


def _logits(model: bytes, entry: ModelEntry, run: Run, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    with OrtEngine(model, entry, run.preprocessing, classes=len(run.classes)) as engine:
        return np.concatenate([engine.infer(tensor[np.newaxis]) for tensor in inputs])


def _require_equal(torch_logits: NDArray[np.float32], onnx_logits: NDArray[np.float32]) -> float:
    worst = float(np.abs(torch_logits - onnx_logits).max())
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
) -> tuple[Quantized, dict[int, ParityResult]]:
    tried: dict[int, ParityResult] = {}
    convolutions, _ = compute_nodes(model)
    fixed = options.float_convs
    candidates = [n for n in _FLOAT_CONVS if n <= len(convolutions)] if fixed is None else [fixed]
    ranges, inputs = (part.tensors(run.preprocessing) for part in (frames.ranges, frames.validation))
    for float_convs in candidates:
        step(f"quantising with the first {float_convs} of {len(convolutions)} convolutions in float")
        quantized = quantize_cpu(model, _REFERENCE, ranges, float_convs=float_convs)
        logits = _logits(quantized.model, _CPU, run, inputs)
        tried[float_convs] = compare("cpu", reference, logits, frames.validation.truth)
        try:
            check_budget(tried[float_convs], options.budget)
        except ParityError as exc:
            if float_convs == candidates[-1]:
                raise
            step(f"not within the budget: {exc.got}")
        else:
            return quantized, tried
    raise AssertionError("unreachable: the last candidate returns or raises")


def _fit(run: Run, quantized: Quantized, frames: _Material, parity: ParityResult, risk: float) -> _Fitted:
    entry = _CPU.model_copy(update={"float_nodes": quantized.float_nodes})

    def logits(part: Frames) -> NDArray[np.float32]:
        return _logits(quantized.model, entry, run, part.tensors(run.preprocessing))

    calibration = calibrate(Labelled(logits(frames.validation), frames.validation.truth), fitted_on="cpu", risk=risk)
    posterior = posterior_from_logits(logits(frames.test), calibration.temperature)
    measured = measure(judge(frames.test.truth, posterior, run.classes), run.classes)
    return _Fitted(entry, parity, calibration, measured)


def _spread(rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, number).astype(np.int64)]


def _golden(models: dict[str, bytes], run: Run, frames: NDArray[np.uint8]) -> bytes:
    logits: dict[str, NDArray[np.float32]] = {}
    tolerances: dict[str, float] = {}
    for entry, share in ((_REFERENCE, _REFERENCE_TOLERANCE), (_CPU, _INT8_TOLERANCE)):
        with OrtEngine(models[entry.file], entry, run.preprocessing, classes=len(run.classes)) as engine:
            logits[entry.role] = infer_frames(engine, frames, run.preprocessing)
        tolerances[entry.role] = share * max(1.0, float(np.abs(logits[entry.role]).max()))
    return encode_golden(frames, logits, tolerances)


def _manifest(run: Run, options: Options, fitted: _Fitted, files: dict[str, bytes]) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        name=options.name,
        version=options.version,
        created=datetime.now(timezone.utc).replace(microsecond=0),
        count_classes=run.classes,
        preprocessing=run.preprocessing,
        models=(_REFERENCE, fitted.entry),
        calibration=fitted.calibration,
        parity=Parity(budget=options.budget, results=(fitted.parity,)),
        metrics={
            key: float(fitted.measured[key]) for key in ("n", "accuracy", "within_1", "mae", "rmse", "macro_f1", "ece")
        },
        provenance=Provenance(
            dataset_sha256=run.dataset_sha256,
            dataset=options.data,
            config_sha256=run.config_sha256,
            code_version=version("bintally"),
            model=run.config.model.name,
            initial_weights=run.initial_weights,
        ),
        licence=options.licence,
        minimum_agent=MINIMUM_AGENT,
        files={name: file_entry(data) for name, data in files.items()},
    )
