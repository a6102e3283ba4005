"""The model card: what a person must know before trusting a bundle. Pure: figures in, Markdown out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bundle.manifest import Manifest

_ESTIMATES = (
    ("accuracy", "exact counts"),
    ("within_1", "within one"),
    ("mae", "mean absolute error, items"),
    ("rmse", "root mean square error, items"),
    ("macro_f1", "macro F1"),
    ("ece", "expected calibration error"),
)


def model_card(manifest: Manifest, measured: dict[str, Any], *, measured_on: str) -> str:
    """Write the card.

    Args:
        manifest: The bundle's manifest.
        measured: Figures of `train.metrics.measure` for the model that robots run.
        measured_on: The split, in words.

    Returns:
        Markdown.
    """
    provenance = manifest.provenance
    sections = [
        f"# {manifest.name} {manifest.version}",
        f"Counts the items in a warehouse bin as one of: {', '.join(manifest.count_classes)}. " + _open_class(manifest),
        "## Data and protocol",
        f"- Photos: {provenance.dataset} (manifest sha256 `{provenance.dataset_sha256[:16]}`)",
        f"- Network: {provenance.model}, starting from {provenance.initial_weights}",
        f"- Measured on: {measured_on}; photos of one bin never lie on both sides of the split",
        f"## Measured ({measured['n']} photos, model `{manifest.calibration.fitted_on}`, 95 % intervals)",
        _estimates(measured),
        _per_class(measured),
        "## Confidence",
        _confidence(manifest),
        "## INT8 against the reference",
        _parity(manifest),
        "## What it must not be used for",
        (
            "- As the only basis for writing off, ordering or charging: occluded items cannot be seen from one side.\n"
            "- On bins, light or cameras unlike the photos above without recalibration.\n"
            "- To count people or to watch them."
        ),
        f"Licence: {manifest.licence}",
    ]
    return "\n\n".join(sections) + "\n"


def _open_class(manifest: Manifest) -> str:
    top = manifest.count_classes[-1]
    return f'"{top}" means {top[:-1]} or more.' if top.endswith("+") else "Other counts are outside its knowledge."


def _estimates(measured: dict[str, Any]) -> str:
    lines = ["| figure | value | 95 % interval |", "|---|---|---|"]
    for key, words in _ESTIMATES:
        low, high = measured[f"{key}_ci"]
        lines.append(f"| {words} | {measured[key]:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def _per_class(measured: dict[str, Any]) -> str:
    lines = ["| class | precision | recall | F1 | photos |", "|---|---|---|---|---|"]
    for name, row in measured["per_class"].items():
        lines.append(
            f"| {name} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f1']:.3f} | {row['support']:.0f} |"
        )
    return "\n".join(lines)


def _confidence(manifest: Manifest) -> str:
    calibration = manifest.calibration
    if calibration.promise is None:
        return "The calibration photos support no promise, so no count of this bundle is called confident."
    promise = calibration.promise
    return (
        f"Temperature {calibration.temperature:.3f}. Of the counts with confidence {calibration.threshold:.2f} or more,"
        f" at most {promise.risk:.0%} are wrong, with {promise.confidence:.0%} confidence "
        f"(Clopper-Pearson, fixed sequence, {promise.frames} photos); {promise.coverage:.0%} of the photos reach it."
    )


def _parity(manifest: Manifest) -> str:
    lines = ["| model | layers in float | agreement | mean total variation | accuracy, reference | INT8 | photos |"]
    lines.append("|---|---|---|---|---|---|---|")
    for result in manifest.parity.results:
        entry = manifest.model(result.role)
        lines.append(
            f"| {result.role} | {len(entry.float_nodes) if entry else 0} | {result.agreement:.3f} "
            f"| {result.mean_tv:.4f} | {result.reference_accuracy or 0:.3f} | {result.accuracy or 0:.3f} "
            f"| {result.frames} |"
        )
    return "\n".join(lines)
