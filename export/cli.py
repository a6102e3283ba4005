"""`bintally export`: a trained run becomes a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundle.manifest import ParityBudget

if TYPE_CHECKING:
    from export.job import Exported


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
    "--float-convs", type=click.IntRange(0), help="First convolutions left in float (default: tried upwards)."
)
@click.option(
    "--min-agreement", type=click.FloatRange(0, 1), default=0.9, show_default=True, help="Budget: INT8 and FP32 agree."
)
@click.option(
    "--max-mean-tv",
    type=click.FloatRange(0, 1),
    default=0.03,
    show_default=True,
    help="Budget: distance of posteriors.",
)
@click.option(
    "--max-accuracy-drop",
    type=click.FloatRange(0, 1),
    default=0.015,
    show_default=True,
    help="Budget: exact accuracy lost.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def export(  # noqa: PLR0913 - one parameter per option
    run: Path,
    out: Path,
    *,
    name: str,
    version: str,
    licence: str,
    data: str,
    risk: float,
    float_convs: int | None,
    min_agreement: float,
    max_mean_tv: float,
    max_accuracy_drop: float,
    as_json: bool,
) -> None:
    """Turn the trained RUN into a bundle that a robot can execute.

    Writes the FP32 and the INT8 model, executes both, and refuses to pack when INT8 is beyond the budget. The
    confidence threshold is then fitted on INT8 outputs of the validation split, and everything is measured on the test
    split.

    \b
    Example:
      bintally export runs/first --out bundles/first --licence Apache-2.0 --data "our own bins, 2026"
      bintally bundle inspect bundles/first
    """
    from export.job import Options, export_run
    from export.progress import steps

    budget = ParityBudget(min_agreement=min_agreement, max_mean_tv=max_mean_tv, max_accuracy_drop=max_accuracy_drop)
    options = Options(
        name=name, version=version, licence=licence, data=data, risk=risk, budget=budget, float_convs=float_convs
    )
    with steps() as step:
        exported = export_run(run, out, options, step=step)
    click.echo(json.dumps(_as_json(exported)) if as_json else _as_text(exported))


def _as_json(exported: Exported) -> dict[str, object]:
    manifest = exported.bundle.manifest
    return {
        "bundle": str(exported.bundle.path),
        "digest": exported.bundle.digest,
        "onnx_max_abs_logit": exported.onnx_max_abs_logit,
        "parity": {str(convs): result.model_dump(mode="json") for convs, result in exported.tried.items()},
        "calibration": manifest.calibration.model_dump(mode="json"),
        "measured_on": exported.measured_on,
        "measured": exported.measured,
    }


def _as_text(exported: Exported) -> str:
    measured, calibration = exported.measured, exported.bundle.manifest.calibration
    low, high = measured["accuracy_ci"]
    lines = [
        f"torch and ONNX differ by {exported.onnx_max_abs_logit:.2g} in a logit at most",
        *(
            f"INT8 with {convs} convolutions in float: agreement {result.agreement:.1%}, mean TV {result.mean_tv:.4f}, "
            f"exact {result.reference_accuracy:.1%} -> {result.accuracy:.1%}"
            for convs, result in exported.tried.items()
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
