"""What each INT8 technique brings on a trained network: agreement, distance, exact counts lost, and time per frame.

Rows build on one another: plain post-training INT8 with each way to find ranges, then bias correction, rounding
together and equalisation, then convolutions left in float by measured sensitivity, then fine-tuning. ONNX Runtime
executes every file, the TensorRT one too: its Q/DQ nodes say exactly what TensorRT has to compute. Time is processor
time on one thread, measured in turns, all engines in one run.

    python benchmarks/int8.py RUN [--frames 400] [--ranges percentile] [--float 1,2,4] [--qat-photos 0] [--dialect cpu]

The last line is one JSON object; `ratio` is the posterior distance of INT8 as `bintally export` makes it, all
convolutions in INT8, over that of plain INT8 (MinMax ranges, weights rounded to the nearest): below 1 is good.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle.engines.machine import describe_machine
from bundle.engines.ort import OrtEngine
from bundle.engines.ov import OvEngine
from bundle.engines.speed import Plan, best_block_ms
from bundle.errors import ParityError
from bundle.manifest import ModelEntry
from bundle.parity import check_budget, compare
from bundle.preprocess import normalize_batch
from calibration.int8.equalize import equalize
from calibration.int8.graph import normal_form
from calibration.int8.quantize import Prepared, Recipe, Technique, quantize, round_weights
from calibration.int8.ranges import RANGE_METHODS, observe
from export.material import for_fitting, load_material, training_photos
from export.options import BUDGET, RANGE_FRAMES
from export.qat import Lessons, fine_tune
from export.quantize import Judged, worst_first
from export.to_onnx import export_onnx
from train.run import load_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bundle.engines.base import Engine
    from calibration.int8.placement import Dialect
    from calibration.int8.ranges import RangeMethod
    from export.material import Material
    from train.run import Run

STEPS: tuple[tuple[str, frozenset[Technique]], ...] = (
    ("bias corrected", frozenset({"correct_bias"})),
    ("rounded together", frozenset({"correct_bias", "round_together"})),
)


@dataclass(frozen=True)
class Bench:
    """A network, its photos, and what FP32 says about them."""

    run: Run
    reference: bytes
    material: Material
    validation: NDArray[np.float32]
    training: NDArray[np.float32]

    def infer(self, model: bytes, dialect: Dialect | None, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of a model."""
        with OrtEngine(model, entry_of(dialect), self.run.preprocessing, classes=len(self.run.classes)) as engine:
            return infer_all(engine, self.run, pixels)


def entry_of(dialect: Dialect | None) -> ModelEntry:
    """What a manifest would say of a model."""
    return ModelEntry(role=dialect or "reference", file="model.onnx", precision="int8" if dialect else "fp32", opset=17)


def infer_all(engine: Engine, run: Run, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of an engine, in small batches."""
    batches = (pixels[start : start + 8] for start in range(0, len(pixels), 8))
    return np.concatenate([engine.infer(normalize_batch(batch, run.preprocessing)) for batch in batches])


def opened(folder: Path, frames: int, training: int) -> Bench:
    """Read a run and its photos, and ask FP32 about them."""
    run = load_run(folder)
    material = load_material(run, training=training_photos(RANGE_FRAMES, training), judged=frames, min_judged=1)
    reference = export_onnx(run.module, run.preprocessing)
    with OrtEngine(reference, entry_of(None), run.preprocessing, classes=len(run.classes)) as engine:
        answers = [infer_all(engine, run, part.pixels) for part in (material.validation, material.training)]
    return Bench(run, reference, material, *answers)


def variants(bench: Bench) -> Iterator[tuple[str, Prepared]]:
    """The network with ever more done to its weights; the last one is what an export makes."""
    ranges, _ = for_fitting(bench.material.training, bench.training, RANGE_FRAMES)
    tensors = normalize_batch(bench.material.training.pixels[ranges], bench.run.preprocessing)
    normal = normal_form(bench.reference)
    observed = observe(normal, tensors)
    yield "plain", round_weights(normal, observed, frozenset())
    for name, techniques in STEPS:
        yield name, round_weights(normal, observed, techniques)
    equal = equalize(normal, tensors[::3])
    yield "equalised", round_weights(equal, observe(equal, tensors))


def judged(bench: Bench, name: str, recipe: Recipe, model: bytes) -> dict[str, Any]:
    """Execute a model on the validation photos; prints a row of the table."""
    frames = bench.material.validation
    logits = bench.infer(model, recipe.dialect, frames.pixels)
    result = compare(recipe.dialect, bench.validation, logits, frames.truth)
    try:
        check_budget(result, BUDGET)
        refused = ""
    except ParityError as exc:
        refused = str(exc.got)
    row = {"dialect": recipe.dialect, "technique": name, "ranges": recipe.method, "refused": refused}
    row |= {"float": len(recipe.float_convolutions)} | result.model_dump(mode="json")
    low, high = (100 * bound for bound in result.accuracy_drop_ci or (0.0, 0.0))
    lost = 100 * ((result.reference_accuracy or 0) - (result.accuracy or 0))
    print(
        f"| {recipe.dialect} | {name} | {recipe.method} | {len(recipe.float_convolutions)} | {result.agreement:.1%} "
        f"| {result.sure_agreement:.1%} | {result.mean_tv:.4f} | {lost:+.1f} ({low:+.1f} to {high:+.1f}) "
        f"| {'no' if refused else 'yes'} |",
        flush=True,
    )
    return row


def sensitivity(bench: Bench, prepared: Prepared, recipe: Recipe) -> list[str]:
    """Convolutions, the most harmful first, on the frames that an export takes."""
    training = bench.material.training
    _, compared = for_fitting(training, bench.training, RANGE_FRAMES)
    judged = Judged(training.pixels[compared], bench.training[compared], training.truth[compared])
    return worst_first(prepared, recipe, judged, bench.infer)


def ladder(bench: Bench, dialect: Dialect, made: dict[str, Prepared], asked: argparse.Namespace) -> Iterator[Any]:
    """Rows of one dialect, each with its model."""

    def row(name: str, prepared: Prepared, recipe: Recipe) -> tuple[dict[str, Any], bytes]:
        model = quantize(prepared, recipe).model
        return judged(bench, name, recipe, model), model

    method: RangeMethod = asked.ranges
    for other in RANGE_METHODS:
        yield row("plain", made["plain"], Recipe(dialect, other))
    for name, prepared in made.items():
        if name != "plain":
            yield row(name, prepared, Recipe(dialect, method))
    final = made["equalised"]
    counts = [int(number) for number in asked.float.split(",") if number]
    order = sensitivity(bench, final, Recipe(dialect, method)) if counts else []
    for count in counts:
        yield row("mixed precision", final, Recipe(dialect, method, frozenset(order[:count])))
    if asked.qat_photos:
        photos = bench.material.training.pixels[: asked.qat_photos]
        lessons = Lessons(photos, bench.training[: asked.qat_photos], bench.run.preprocessing, epochs=1)
        recipe = Recipe(dialect, method)
        tuned = fine_tune(final, recipe, lessons, step=lambda words: print(words, file=sys.stderr))
        yield row("fine-tuned", tuned, recipe)


def timed(bench: Bench, rows: list[tuple[dict[str, Any], bytes]], plan: Plan) -> dict[str, float]:
    """Milliseconds of processor time per frame of FP32 and of every different graph, one thread, in turns."""
    engines: dict[str, Engine] = {}
    spec, classes = bench.run.preprocessing, len(bench.run.classes)
    wanted = {f"{row['dialect']} {row['float']} in float": (row["dialect"], model) for row, model in rows}
    for name, (dialect, model) in {"fp32": (None, bench.reference), **wanted}.items():
        engines[f"onnxruntime {name}"] = OrtEngine(model, entry_of(dialect), spec, classes=classes, threads=1)
        engines[f"openvino {name}"] = OvEngine(model, entry_of(dialect), spec, classes=classes, threads=1)
    tensor = normalize_batch(bench.material.validation.pixels[:1], spec)
    # Processor time: on one thread it is what a call costs, and other work on the machine does not count.
    times = best_block_ms(list(engines.values()), tensor, plan, clock=time.process_time)
    for engine in engines.values():
        engine.close()
    found = dict(zip(engines, times, strict=True))
    for name, time_ms in found.items():
        print(f"| {name} | {time_ms:.2f} ms | {found['onnxruntime fp32'] / time_ms:.2f} |")
    return found


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--frames", type=int, default=400, help="validation photos")
    parser.add_argument("--ranges", choices=RANGE_METHODS, default="percentile")
    parser.add_argument("--float", default="1,2,4", help="convolutions in float, as numbers")
    parser.add_argument("--qat-photos", type=int, default=0, help="training photos to fine-tune on, once")
    parser.add_argument("--dialect", choices=("cpu", "tensorrt"), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    bench = opened(asked.run, asked.frames, asked.qat_photos)
    made = dict(variants(bench))
    print(
        "| file | technique | ranges | in float | agreement | of sure frames | mean distance | points lost | within |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows = [row for dialect in asked.dialect or ("cpu", "tensorrt") for row in ladder(bench, dialect, made, asked)]
    times = timed(bench, rows, Plan(rounds=asked.rounds, block_s=0.2))
    first = [row for row, _ in rows if row["dialect"] == rows[0][0]["dialect"]]
    plain = next(row for row in first if row["ranges"] == "minmax" and row["technique"] == "plain")
    ours = next(row for row in first if row["technique"] == "equalised")
    report = {"ratio": ours["mean_tv"] / plain["mean_tv"], "rows": [row for row, _ in rows], "ms": times}
    print(json.dumps(report | {"run": asked.run.name, "machine": describe_machine()}))


if __name__ == "__main__":
    main()
