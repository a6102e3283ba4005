"""Judge a run or a bundle on a dataset: what a robot would answer, photo by photo, and every figure with its interval.

A bundle is judged through `bundle.counter.Counter`, exactly as a robot runs it, temperature included; a run
through its own network. Photos are never padded or repeated, and the answers are kept, so that every figure
can be computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle import images
from bundle.counter import Counter, posterior_from_logits
from bundle.errors import InputError
from bundle.manifest import MANIFEST_NAME, class_index
from train import metrics
from train.data.manifest import Dataset
from train.loop import predict
from train.memory import keep_freed_memory
from train.photos import load_photos, select_photos
from train.run import CONFIG_NAME, load_run, write_predictions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import CountClasses
    from train.photos import Photo
    from train.progress import Progress

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Answers:
    """What a counter said about photos.

    Attributes:
        classes: Count classes.
        ids: Photo ids.
        counts: int64 (N,), true counts.
        logits: float32 (N, K); for a bundle the logarithm of its calibrated posterior.
    """

    classes: CountClasses
    ids: list[str]
    counts: NDArray[np.int64]
    logits: NDArray[np.float32]

    def judged(self) -> metrics.Judged:
        """Put the answers beside the truth.

        Returns:
            What `train.metrics` measures.

        Raises:
            InputError: A count that no class covers, or an answer that is not finite.
        """
        found = [class_index(self.classes, int(count)) for count in self.counts]
        truth = np.array([-1 if index is None else index for index in found], dtype=np.int64)
        return metrics.judge(truth, posterior_from_logits(self.logits, 1.0), self.classes)


def evaluate(
    target: Path,
    data: Path,
    *,
    split: str,
    progress: Progress,
    engine: str = "auto",
    predictions: Path | None = None,
) -> dict[str, Any]:
    """Judge a run or a bundle.

    Args:
        target: A run folder or a bundle folder.
        data: Dataset folder.
        split: Split to judge on.
        progress: Where to report.
        engine: For a bundle, which engine answers.
        predictions: Where to keep the answers (.npz); None keeps none.

    Returns:
        The figures of `train.metrics.measure`, with "target", "split" and "classes" before them.

    Raises:
        InputError: Neither run nor bundle, no such split, a class without photos, or an unreadable photo.
        BundleError: The bundle is damaged.
        EngineError: No engine runs the bundle.
    """
    keep_freed_memory()
    dataset = Dataset.open(data)
    answers = _ask(target, dataset, split, engine, progress)
    if predictions is not None:
        try:
            write_predictions(predictions, answers.ids, answers.counts, answers.logits)
        except OSError as exc:
            raise InputError(f"cannot write {predictions}", got=exc.strerror) from exc
    figures = metrics.measure(answers.judged(), answers.classes)
    return {"target": str(target), "split": split, "classes": list(answers.classes), **figures}


def _ask(target: Path, dataset: Dataset, split: str, engine: str, progress: Progress) -> Answers:
    if (target / MANIFEST_NAME).is_file():
        return ask_bundle(target, dataset, split, engine=engine, progress=progress)
    if (target / CONFIG_NAME).is_file():
        return ask_run(target, dataset, split, progress=progress)
    raise InputError(
        f"{target} is neither a run nor a bundle",
        got=f"no {CONFIG_NAME} and no {MANIFEST_NAME}",
        fix="Give the folder that `bintally train --out` or `bintally export --out` wrote.",
    )


def ask_run(target: Path, dataset: Dataset, split: str, *, progress: Progress) -> Answers:
    """Answers of a run's network.

    Args:
        target: Run folder.
        dataset: An opened dataset.
        split: Split to judge on.
        progress: Where to report.

    Returns:
        Answers in manifest order.

    Raises:
        InputError: Not a finished run, no such split, a class without photos, or an unreadable photo.
    """
    run = load_run(target)
    chosen = select_photos(dataset, split, run.classes)
    progress.stage(f"reading {split}", len(chosen))
    photos = load_photos(chosen, run.classes, run.preprocessing, progress=progress.done)
    return _answers(run.classes, chosen, predict(run.module, photos))


def ask_bundle(target: Path, dataset: Dataset, split: str, *, engine: str, progress: Progress) -> Answers:
    """Answers of a bundle, through the Counter that a robot runs.

    Args:
        target: Bundle folder.
        dataset: An opened dataset.
        split: Split to judge on.
        engine: Which engine answers.
        progress: Where to report.

    Returns:
        Answers in manifest order.

    Raises:
        InputError: No such split, a class without photos, or an unreadable photo.
        BundleError: The bundle is damaged.
        EngineError: No engine runs the bundle.
    """
    counter = Counter.open(target, engine=engine)
    try:
        chosen = select_photos(dataset, split, counter.classes)
        progress.stage(f"counting {split} with {counter.engine.name}", len(chosen))
        found = []
        for start in range(0, len(chosen), _BATCH):
            part = chosen[start : start + _BATCH]
            found.append(counter.posteriors([images.read(photo.path) for photo in part]))
            progress.done(start + len(part))
        posterior = np.concatenate(found)
    finally:
        counter.close()
    logits = np.log(np.maximum(posterior, np.finfo(np.float32).tiny)).astype(np.float32)
    return _answers(counter.classes, chosen, logits)


def _answers(classes: CountClasses, photos: Sequence[Photo], logits: NDArray[np.float32]) -> Answers:
    counts = np.array([photo.count for photo in photos], dtype=np.int64)
    return Answers(classes, [photo.id for photo in photos], counts, logits)
