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
from train.ranks import Ranks, joined_ranks
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
) -> dict[str, Any] | None:
    """Judge a run or a bundle; under torchrun, together with the other processes.

    Args:
        target: A run folder or a bundle folder.
        data: Dataset folder.
        split: Split to judge on.
        progress: Where to report.
        engine: For a bundle, which engine answers.
        predictions: Where to keep the answers (.npz); None keeps none.

    Returns:
        The figures of `train.metrics.measure`, with "target", "split" and "classes" before them; None on every rank
        but the first.

    Raises:
        InputError: Neither run nor bundle, no such split, a class without photos, or an unreadable photo.
        BundleError: The bundle is damaged.
        EngineError: No engine runs the bundle.
    """
    keep_freed_memory()
    dataset = Dataset.open(data)
    with joined_ranks() as ranks:
        answers = _ask(target, dataset, split, engine, progress, ranks)
        if not ranks.first:
            return None
    if predictions is not None:
        try:
            write_predictions(predictions, answers.ids, answers.counts, answers.logits)
        except OSError as exc:
            raise InputError(f"cannot write {predictions}", got=exc.strerror) from exc
    figures = metrics.measure(answers.judged(), answers.classes)
    return {"target": str(target), "split": split, "classes": list(answers.classes), **figures}


def _ask(target: Path, dataset: Dataset, split: str, engine: str, progress: Progress, ranks: Ranks) -> Answers:
    if (target / MANIFEST_NAME).is_file():
        return ask_bundle(target, dataset, split, engine=engine, progress=progress, ranks=ranks)
    if (target / CONFIG_NAME).is_file():
        return ask_run(target, dataset, split, progress=progress, ranks=ranks)
    raise InputError(
        f"{target} is neither a run nor a bundle",
        got=f"no {CONFIG_NAME} and no {MANIFEST_NAME}",
        fix="Give the folder that `bintally train --out` or `bintally export --out` wrote.",
    )


def ask_run(target: Path, dataset: Dataset, split: str, *, progress: Progress, ranks: Ranks | None = None) -> Answers:
    """Answers of a run's network.

    Args:
        target: Run folder.
        dataset: An opened dataset.
        split: Split to judge on.
        progress: Where to report.
        ranks: Which of several processes this is; None is the only one.

    Returns:
        Answers of all ranks, in manifest order.

    Raises:
        InputError: Not a finished run, no such split, a class without photos, or an unreadable photo.
    """
    run = load_run(target)
    chosen = select_photos(dataset, split, run.classes)
    ranks = ranks or Ranks()
    rows = ranks.rows(len(chosen), _BATCH)
    logits = np.empty((0, len(run.classes)), np.float32)
    if len(rows):
        progress.stage(f"reading {split}", len(rows))
        mine = [chosen[row] for row in rows]
        photos = load_photos(mine, run.classes, run.preprocessing, progress=progress.done)
        logits = predict(run.module, photos, batch_size=_BATCH)
    return _answers(run.classes, chosen, ranks.gather(rows, logits, len(chosen)))


def ask_bundle(
    target: Path, dataset: Dataset, split: str, *, engine: str, progress: Progress, ranks: Ranks | None = None
) -> Answers:
    """Answers of a bundle, through the Counter that a robot runs.

    Args:
        target: Bundle folder.
        dataset: An opened dataset.
        split: Split to judge on.
        engine: Which engine answers.
        progress: Where to report.
        ranks: Which of several processes this is; None is the only one.

    Returns:
        Answers of all ranks, in manifest order.

    Raises:
        InputError: No such split, a class without photos, or an unreadable photo.
        BundleError: The bundle is damaged.
        EngineError: No engine runs the bundle.
    """
    ranks = ranks or Ranks()
    counter = Counter.open(target, engine=engine)
    try:
        chosen = select_photos(dataset, split, counter.classes)
        rows = ranks.rows(len(chosen), _BATCH)
        progress.stage(f"counting {split} with {counter.engine.name}", len(rows))
        found = [np.empty((0, len(counter.classes)))]
        for start in range(0, len(rows), _BATCH):
            part = [images.read(chosen[row].path) for row in rows[start : start + _BATCH]]
            found.append(counter.posteriors(part))
            progress.done(start + len(part))
        posterior = np.concatenate(found)
    finally:
        counter.close()
    logits = np.log(np.maximum(posterior, np.finfo(np.float32).tiny)).astype(np.float32)
    return _answers(counter.classes, chosen, ranks.gather(rows, logits, len(chosen)))


def _answers(classes: CountClasses, photos: Sequence[Photo], logits: NDArray[np.float32]) -> Answers:
    counts = np.array([photo.count for photo in photos], dtype=np.int64)
    return Answers(classes, [photo.id for photo in photos], counts, logits)
