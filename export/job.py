"""A run in, a bundle out: ONNX -> INT8 -> parity -> confidence -> golden frames -> pack.

Nothing is packed that was not executed: the ONNX file is held against the torch network, each INT8 file against the
ONNX file, and the confidence is fitted on what the INT8 file says, because that is what the robot will say. ONNX
Runtime executes the TensorRT file too: its Q/DQ nodes say exactly what TensorRT has to compute.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.counter import posterior_from_logits
from bundle.errors import BundleError, ConfigError, ParityError
from bundle.preprocess import normalize, normalize_batch
from calibration.confidence import Labelled, calibrate
from calibration.int8.quantize import prepare
from export.assembly import Fitted, Made, pack_bundle
from export.linter import lint
from export.material import Material, for_fitting, load_material, logits_of, spread, training_photos
from export.options import entries_of
from export.qat import Lessons, fine_tune
from export.quantize import Attempt, Judged, Search, quantize_within
from export.refusal import save_worst
from export.to_onnx import ROUTES, export_onnx, infer_torch
from train.mean import Mirrored
from train.metrics import judge, measure
from train.run import load_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import ModelEntry
    from bundle.verify import Bundle
    from calibration.int8.placement import Dialect
    from calibration.int8.quantize import Prepared, Recipe
    from export.options import Options
    from train.run import Run

_TORCH_FRAMES = 200
_EXPORT_TOLERANCE = 1e-3


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
        BundleError: An INT8 file breaks a rule of `export.linter`.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already", fix="Bundles are immutable: name a new folder, or remove this one.")
    step("reading the run and its photos")
    run = _looking_twice(load_run(folder), options) if options.tta else load_run(folder)
    frames = _load(run, options)
    step("writing ONNX and holding it against the torch network")
    model = export_onnx(run.module, run.preprocessing, target=options.target)
    reference = logits_of(model, entries_of(options)["reference"], run, frames.validation.pixels)
    onnx_error = _require_equal(run, frames.validation.pixels, reference)
    attempts = _quantize(run, model, frames, reference, options, step=step)
    chosen = {attempt.dialect: attempt for attempt in attempts}
    _require_within(chosen, out, frames, reference, run)
    _require_lint(chosen, options)
    step("fitting the confidence on INT8 outputs")
    fitted = _fit(run, chosen["cpu"], entries_of(options)["cpu"], frames, options.risk)
    step("packing and verifying")
    bundle = pack_bundle(out, Made(run, options, frames, model, chosen, fitted))
    return Exported(bundle, onnx_error, tuple(attempts), fitted.measured, frames.measured_on)


def _load(run: Run, options: Options) -> Material:
    training = training_photos(options.range_frames, options.tune_frames if options.qat else 0)
    return load_material(run, training=training, judged=options.judge_frames, min_judged=options.min_frames)


def _looking_twice(run: Run, options: Options) -> Run:
    if options.qat > 0:
        raise ConfigError(
            "fine-tuning knows no mirror images", got=f"qat = {options.qat}", fix="Leave one of them away."
        )
    return replace(run, module=Mirrored(run.module))


def _require_equal(run: Run, pixels: NDArray[np.uint8], onnx_logits: NDArray[np.float32]) -> float:
    chosen = spread(np.arange(len(pixels)), min(_TORCH_FRAMES, len(pixels)))
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
    frames: Material,
    reference: NDArray[np.float32],
    options: Options,
    *,
    step: Callable[[str], None],
) -> list[Attempt]:
    entries = entries_of(options)
    seen = logits_of(model, entries["reference"], run, frames.training.pixels)
    ranges, tuning = for_fitting(frames.training, seen, options.range_frames)
    step(f"looking at {len(ranges)} of {len(frames.training.rows)} training frames inside the network")
    pixels = frames.training.pixels
    search = Search(
        prepared=prepare(model, normalize_batch(pixels[ranges], run.preprocessing)),
        tuning=Judged(pixels[tuning], seen[tuning], frames.training.truth[tuning]),
        validation=Judged(frames.validation.pixels, reference, frames.validation.truth),
        budget=options.budget,
        infer=lambda data, dialect, images: logits_of(data, entries[dialect], run, images),
        step=step,
        tune=_tuning(Lessons(pixels, seen, run.preprocessing, options.qat), step) if options.qat else None,
    )
    dialects: Sequence[Dialect] = ("cpu", "tensorrt") if options.tensorrt else ("cpu",)
    return [
        attempt
        for dialect in dialects
        for attempt in quantize_within(search, dialect, float_convolutions=options.float_convs)
    ]


def _tuning(lessons: Lessons, step: Callable[[str], None]) -> Callable[[Prepared, Recipe], Prepared]:
    return lambda prepared, recipe: fine_tune(prepared, recipe, lessons, step=step)


def _require_within(
    chosen: dict[Dialect, Attempt],
    out: Path,
    frames: Material,
    reference: NDArray[np.float32],
    run: Run,
) -> None:
    for attempt in chosen.values():
        if attempt.refusal is None:
            continue
        validation = frames.validation
        names = [frames.dataset.id_of(row) for row in validation.rows]
        folder = save_worst(out.with_name(f"{out.name}.refused"), attempt, validation, reference, names, run.classes)
        raise ParityError(
            attempt.refusal.what, got=attempt.refusal.got, fix=f"{attempt.refusal.fix} The worst frames: {folder}"
        )


def _require_lint(chosen: dict[Dialect, Attempt], options: Options) -> None:
    for dialect, attempt in chosen.items():
        findings = lint(attempt.quantized.model, dialect, max_opset=ROUTES[options.target].opset)
        if findings:
            raise BundleError(
                f"the {dialect} file breaks rules that its runtimes need kept",
                got="; ".join(f"{finding.rule}: {finding.node} {finding.message}" for finding in findings[:3]),
                fix="Report the model's name; --no-tensorrt exports for processors alone.",
            )


def _fit(run: Run, attempt: Attempt, entry: ModelEntry, frames: Material, risk: float) -> Fitted:
    calibration = calibrate(Labelled(attempt.logits, frames.validation.truth), fitted_on="cpu", risk=risk)
    logits = attempt.logits
    if frames.test is not frames.validation:
        logits = logits_of(attempt.quantized.model, entry, run, frames.test.pixels)
    posterior = posterior_from_logits(logits, calibration.temperature, calibration.ordinal)
    return Fitted(calibration, measure(judge(frames.test.truth, posterior, run.classes), run.classes))
