"""Does the confidence keep its promise on photos that no network saw? Grouped folds, INT8 outputs; prints one object.

    python benchmarks/folds.py outputs RUN OUT.npz     one trained fold -> INT8 -> its outputs on the fold held out
    python benchmarks/folds.py judge OUT.npz ...       all folds together; the main figure is `ratio`, below 1 is good

RUN was trained with `--eval-split foldN` and never saw that fold. INT8 is made as `bintally export` makes it (the
fewest convolutions in float that stay within the budget), from training photos alone.

`judge` treats every fold's photos as one robot's labelled visits. *Cross-fitted* figures (calibration error,
intervals): each fifth of a fold's groups is judged by numbers fitted to the other four. *Promises*: 200 times, half of
every fold's groups, drawn anew, fits the numbers, and the other half judges them; "pooled" adds up the confident counts
of all folds, "alone" looks at each fold. Neighbouring photos of one bin are one group and never lie on both sides.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from calibration.assess import (
    Wish,
    calibration_error,
    calibration_error_floor,
    cross_fit,
    mismatches,
    risk_coverage,
)
from calibration.bounds import supports
from calibration.confidence import find_threshold, tops
from calibration.labelled import Labelled
from calibration.scaling import fit_scaling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from calibration.assess import Unseen

RISKS = (0.1, 0.2, 0.3)
COVERAGES = (0.5, 0.8, 0.9, 0.95)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1)
RESAMPLES = 200
RANGE_FRAMES = 256
JUDGE_FRAMES = 600
CONFIDENCE = 0.95


def main() -> None:
    """Run one part and print its object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    outputs_part = parts.add_parser("outputs")
    outputs_part.add_argument("run", type=Path)
    outputs_part.add_argument("out", type=Path)
    parts.add_parser("judge").add_argument("outputs", type=Path, nargs="+")
    arguments = parser.parse_args()
    result = outputs(arguments.run, arguments.out) if arguments.part == "outputs" else judge(arguments.outputs)
    print(json.dumps({"part": arguments.part, **result, "machine": platform.machine()}))


def say(words: str) -> None:
    """Tell a person what happens, on stderr."""
    print(words, file=sys.stderr, flush=True)


def outputs(run_folder: Path, out: Path) -> dict[str, Any]:
    """Quantise one run on its training photos, and run FP32 and INT8 over the fold that it never saw."""
    from bundle.engines.ort import OrtEngine
    from bundle.manifest import ModelEntry, ParityBudget
    from bundle.parity import compare
    from bundle.preprocess import normalize
    from calibration.int8.quantize import prepare
    from export.frames import load_frames
    from export.quantize import Judged, Search, quantize_within
    from export.to_onnx import ROUTES, export_onnx
    from train.data.manifest import Dataset
    from train.run import load_run

    run = load_run(run_folder)
    dataset = Dataset.open(run.dataset)
    training = run.config.train_split.split(",")
    learned = load_frames(dataset, training, run.classes, run.preprocessing, limit=RANGE_FRAMES + JUDGE_FRAMES)
    held_out = load_frames(dataset, run.config.eval_split, run.classes, run.preprocessing, limit=1_000_000)
    model = export_onnx(run.module, run.preprocessing)
    opset = ROUTES["any"].opset

    def infer(data: bytes, role: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:  # noqa: ANN401 - a literal
        entry = ModelEntry(role=role, file="m.onnx", precision="int8" if role == "cpu" else "fp32", opset=opset)
        with OrtEngine(data, entry, run.preprocessing, classes=len(run.classes), threads=1) as engine:
            return np.concatenate([engine.infer(normalize(one, run.preprocessing)[np.newaxis]) for one in pixels])

    purpose = np.random.default_rng(0).permutation(len(learned.rows))
    ranges, tuning, judging = np.split(purpose, [RANGE_FRAMES * 3 // 4, RANGE_FRAMES])
    parts = [
        Judged(learned.pixels[rows], infer(model, "reference", learned.pixels[rows]), learned.truth[rows])
        for rows in (tuning, judging)
    ]
    inputs = np.stack([normalize(image, run.preprocessing) for image in learned.pixels[ranges]])
    budget = ParityBudget(min_agreement=0.95, max_mean_tv=0.02, max_accuracy_drop=0.005, min_sure_agreement=0.995)
    search = Search(prepare(model, inputs), parts[0], parts[1], budget, infer, say)
    chosen = quantize_within(search, "cpu")[-1]
    int8 = infer(chosen.quantized.model, "cpu", held_out.pixels)
    reference = infer(model, "reference", held_out.pixels)
    np.savez_compressed(
        out,
        id=np.array([dataset.id_of(int(row)) for row in held_out.rows]),
        truth=held_out.truth,
        group=dataset.groups[held_out.rows],
        logits=int8,
        reference=reference,
        classes=np.array(run.classes),
    )
    parity = compare("cpu", reference, int8, held_out.truth)
    return {
        "ratio": round(parity.mean_tv / budget.max_mean_tv, 3),
        "split": run.config.eval_split,
        "photos": len(held_out.rows),
        "float_convolutions": chosen.float_convolutions,
        "within_budget": chosen.refusal is None,
        "parity_on_the_held_out_fold": parity.model_dump(mode="json"),
    }


def judge(files: Sequence[Path]) -> dict[str, Any]:
    """All figures over the given folds."""
    folds = [read_outputs(file, "logits") for file in files]
    raw = _pooled_error([fold.posteriors(1.0) for fold in folds], folds)
    by_coverage = {coverage: [cross_fit(fold, Wish(coverage=coverage)) for fold in folds] for coverage in COVERAGES}
    unseen = by_coverage[0.9]
    posterior = np.concatenate([one.posterior for one in unseen])
    truth = np.concatenate([one.truth for one in unseen])
    error = calibration_error(posterior, truth)
    curve, area = risk_coverage(posterior, truth)
    promises = promised(folds)
    kept = min(one["pooled"]["kept"] for one in promises.values())
    intervals = {f"{coverage:.0%}": _interval(parts) for coverage, parts in by_coverage.items()}
    off = max(abs(_inside(parts) - coverage) for coverage, parts in by_coverage.items())
    reference = [read_outputs(file, "reference") for file in files]
    return {
        # The three bars at once: calibration error 0.03, intervals within 2 points, promises kept in 95 %.
        "ratio": round(max(error / 0.03, off / 0.02, 0.95 / max(kept, 1e-9)), 3),
        "folds": len(folds),
        "photos": len(truth),
        "groups": int(sum(_groups(fold).max() + 1 for fold in folds)),
        "accuracy_int8": round(float((posterior.argmax(axis=1) == truth).mean()), 4),
        "accuracy_fp32": round(float(np.mean(np.concatenate([_right(fold) for fold in reference]))), 4),
        "ece_before": round(raw, 4),
        "ece": round(error, 4),
        "ece_of_a_perfect_posterior": round(calibration_error_floor(posterior), 4),
        "ece_by_fold": [round(calibration_error(one.posterior, one.truth), 4) for one in unseen],
        "area_under_risk_coverage": round(area, 4),
        "risk_at_coverage": {f"{at:.0%}": round(float(curve[int(at * len(curve)) - 1]), 3) for at in SHARES},
        "promises": promises,
        "intervals": intervals,
        "contradicted_records": {f"{offset:+d}": _contradicted(unseen, offset) for offset in range(-3, 4)},
    }  # fmt: skip


def read_outputs(file: Path, which: str) -> Labelled:
    """Outputs of one fold, as labelled visits of one frame."""
    with np.load(file) as content:
        truth, groups = content["truth"].astype(np.int64), content["group"].astype(np.int64)
        return Labelled(content[which], truth, None, groups)


def _groups(fold: Labelled) -> NDArray[np.int64]:
    """Groups numbered from 0."""
    groups = np.arange(len(fold)) if fold.groups is None else fold.groups
    return np.asarray(np.unique(groups, return_inverse=True)[1], np.int64)


def _right(fold: Labelled) -> NDArray[np.bool_]:
    return np.asarray(fold.logits.argmax(axis=1) == fold.truth)


def _pooled_error(posteriors: Sequence[NDArray[np.float64]], folds: Sequence[Labelled]) -> float:
    return calibration_error(np.concatenate(list(posteriors)), np.concatenate([fold.truth for fold in folds]))


def _inside(parts: Sequence[Unseen]) -> float:
    return float(np.concatenate([one.inside for one in parts]).mean())


def _interval(parts: Sequence[Unseen]) -> dict[str, Any]:
    width = np.concatenate([one.width for one in parts])
    return {
        "inside": round(_inside(parts), 4),
        "by_fold": [round(float(one.inside.mean()), 4) for one in parts],
        "mean_width": round(float(width.mean()), 3),
    }


def _contradicted(parts: Sequence[Unseen], offset: int) -> float:
    shares = [mismatches(one, offset) for one in parts]
    return round(float(np.mean([share for share in shares if share is not None])), 4)


@dataclass(frozen=True, slots=True)
class Draw:
    """A promise, fitted on half of a fold's groups and judged on the other half: photos."""

    confident: int
    wrong: int
    judged: int


def promised(folds: Sequence[Labelled]) -> dict[str, dict[str, Any]]:
    """Fit on half of every fold's groups, judge on the other half, 200 times."""
    by_risk: dict[float, list[list[Draw]]] = {risk: [] for risk in RISKS}
    for seed in range(RESAMPLES):
        draws = [_one_draw(fold, seed) for fold in folds]
        for risk in RISKS:
            by_risk[risk].append([draw[risk] for draw in draws if risk in draw])
    photos = RESAMPLES * sum(len(fold) for fold in folds) / 2
    return {f"{risk:.0%}": _told(made, risk, RESAMPLES * len(folds), photos) for risk, made in by_risk.items()}


def _told(resamples: list[list[Draw]], risk: float, tries: int, photos: float) -> dict[str, Any]:
    alone = [draw for made in resamples for draw in made]
    kept = [sum(draw.wrong for draw in made) <= risk * sum(draw.confident for draw in made) for made in resamples]
    realised = [draw.wrong / draw.confident for draw in alone if draw.confident]
    confident, judged = sum(draw.confident for draw in alone), sum(draw.judged for draw in alone)
    return {
        "pooled": {"kept": float(np.mean(kept)), "made": sum(bool(made) for made in resamples), "of": len(resamples)},
        "alone": {
            "made": len(alone),
            "of": tries,
            "kept": round(1 - sum(draw.wrong > risk * draw.confident for draw in alone) / tries, 4),
            "clearly_broken": sum(_clearly_broken(draw, risk) for draw in alone),
        },
        "realised": round(float(np.mean(realised)), 4) if realised else None,
        "coverage_where_made": round(confident / max(1, judged), 4),
        "coverage": round(confident / photos, 4),
    }


def _one_draw(fold: Labelled, seed: int) -> dict[float, Draw]:
    """One draw for every risk at which a promise could be made."""
    group = _groups(fold)
    number = int(group.max()) + 1
    fits = (np.random.default_rng(seed).permutation(number) < number / 2)[group]
    fitted, judged = fold.take(np.flatnonzero(fits)), fold.take(np.flatnonzero(~fits))
    temperature, ordinal = fit_scaling(fitted)
    top, wrong = tops(judged, temperature, ordinal)
    draws = {}
    for risk in RISKS:
        found = find_threshold(fitted, temperature, risk=risk, confidence=CONFIDENCE, ordinal=ordinal)
        if found is not None:
            chosen = top >= found[0]
            draws[risk] = Draw(int(chosen.sum()), int(wrong[chosen].sum()), len(judged))
    return draws


def _clearly_broken(draw: Draw, risk: float) -> bool:
    """So many wrong that a true error rate within the risk has less than 5 % probability to show them."""
    return draw.wrong > 0 and supports(draw.confident - draw.wrong, draw.confident, 1 - risk, CONFIDENCE)


if __name__ == "__main__":
    main()
