"""`bintally export`: a trained run becomes a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bundle.manifest import ParityBudget
from export.options import BUDGET

if TYPE_CHECKING:
    from collections.abc import Callable

    from bundle.manifest import ParityResult
    from export.job import Exported


_Command = TypeVar("_Command", bound="Callable[..., Any]")


def _budget(flag: str, default: float, words: str) -> Callable[[_Command], _Command]:
    return click.option(flag, type=click.FloatRange(0, 1), default=default, show_default=True, help=f"Budget: {words}")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the new bundle.")
@click.option("--name", default="bin-counter", show_default=True, help="Name of the bundle.")
@click.option("--version", default="1.0.0", show_default=True, help="Semantic version of the bundle.")
@click.option("--licence", required=True, help="Licence of the bundle; the photos' licence binds it.")
@click.option("--data", required=True, help="What the photos are, in words, for the model card.")
@click.option(
    "--risk",
    type=click.FloatRange(0.001, 0.9),
    default=0.05,
    show_default=True,
    help="Share of confident counts that may be wrong.",
)
@click.option(
    "--float-convs",
    type=click.IntRange(0),
    help="Most sensitive convolutions left in float  [default: as few as the budget allows]",
)
@click.option("--tta", is_flag=True, help="Look at every frame and its mirror image: twice the time on the robot.")
@click.option("--tensorrt/--no-tensorrt", default=True, show_default=True, help="Also write the file for TensorRT.")
@click.option(
    "--target",
    type=click.Choice(("any", "tensorrt-8", "tensorrt-10", "tensorrt-11")),
    default="any",
    show_default=True,
    help="What the ONNX files must be readable by.",
)
@click.option(
    "--qat",
    type=click.FloatRange(0, 20),
    default=0.0,
    show_default=True,
    metavar="EPOCHS",
    help="Fine-tune INT8 that is beyond the budget, before layers go back to float.",
)
@click.option(
    "--min-frames",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Fewest validation photos that INT8 may be judged on.",
)
@_budget("--min-agreement", BUDGET.min_agreement, "INT8 and FP32 name the same count.")
@_budget("--min-sure-agreement", BUDGET.min_sure_agreement, "the same, of the frames that FP32 gives 0.6 or more.")
@_budget("--max-mean-tv", BUDGET.max_mean_tv, "mean distance of the posteriors.")
@_budget("--max-accuracy-drop", BUDGET.max_accuracy_drop, "exact accuracy lost.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def export(run: Path, out: Path, **chosen: Any) -> None:  # noqa: ANN401 - one per option, of its type
    """Turn the trained RUN into a bundle that a robot can execute.

    \b
    1. Writes the network as ONNX and holds it against torch.
    2. Makes INT8 files, one for processors and one for TensorRT, with as few
       convolutions in float as the budget allows, and executes both.
       With --qat, INT8 that misses the budget first learns from the network.
    3. Fits the confidence threshold on INT8 outputs of the validation split.
    4. Measures on the test split, and packs: bundle, golden frames, model card.

    Beyond the budget nothing is packed (exit code 66): OUT.refused then holds the worst frames as pictures.

    \b
    Examples:
      bintally export runs/first --out bundles/first \\
          --licence Apache-2.0 --data "our own bins, 2026"
      bintally bundle inspect bundles/first
      bintally engine bench bundles/first
    """
    from export.job import export_run
    from export.options import Options
    from export.progress import steps

    as_json = chosen.pop("as_json")
    budget = ParityBudget(**{name: chosen.pop(name) for name in ParityBudget.model_fields})
    options = Options(budget=budget, **chosen)
    with steps() as step:
        exported = export_run(run, out, options, step=step)
    click.echo(json.dumps(_as_json(exported)) if as_json else _as_text(exported))


def _attempts(exported: Exported) -> list[dict[str, object]]:
    return [
        {
            "ranges": attempt.method,
            "float_convolutions": attempt.float_convolutions,
            "fine_tuned": attempt.tuned,
            "within_budget": attempt.refusal is None,
            **attempt.result.model_dump(mode="json"),
        }
        for attempt in exported.attempts
    ]


def _as_json(exported: Exported) -> dict[str, object]:
    manifest = exported.bundle.manifest
    return {
        "bundle": str(exported.bundle.path),
        "digest": exported.bundle.digest,
        "onnx_max_abs_logit": exported.onnx_max_abs_logit,
        "parity": _attempts(exported),
        "calibration": manifest.calibration.model_dump(mode="json"),
        "measured_on": exported.measured_on,
        "measured": exported.measured,
    }


def _words(result: ParityResult) -> str:
    return (
        f"agreement {result.agreement:.1%}, of {result.sure_frames} sure frames {result.sure_agreement:.1%}, "
        f"mean TV {result.mean_tv:.4f}, exact {result.reference_accuracy or 0:.1%} -> {result.accuracy or 0:.1%}"
    )


def _as_text(exported: Exported) -> str:
    measured, calibration = exported.measured, exported.bundle.manifest.calibration
    low, high = measured["accuracy_ci"]
    lines = [
        f"torch and ONNX differ by {exported.onnx_max_abs_logit:.2g} in a logit at most",
        *(
            f"{attempt.dialect}: INT8, {attempt.float_convolutions} convolutions in float, {attempt.method} ranges"
            f"{', fine-tuned' if attempt.tuned else ''}: "
            f"{_words(attempt.result)}{'' if attempt.refusal is None else ' (beyond the budget)'}"
            for attempt in exported.attempts
        ),
        f"exact {measured['accuracy']:.1%} ({low:.1%} to {high:.1%}), {measured['n']} photos of {exported.measured_on}",
        f"threshold {calibration.threshold:.2f}, "
        + (
            f"{calibration.promise.coverage:.0%} confident"
            if calibration.promise
            else "no promise: nothing is confident"
        ),
        f"wrote {exported.bundle.path} ({exported.bundle.label})",
    ]
    return "\n".join(lines)
