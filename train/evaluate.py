"""Judge a run or a bundle on a dataset: what a robot would answer, photo by photo, and every figure with its interval.

A bundle is judged through `bundle.counter.Counter`, exactly as a robot runs it, temperature included; a run
through its own network. Photos are never padded or repeated, and the answers are kept, so that every figure
can be computed again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle import images
from bundle.counter import Counter
from bundle.errors import ConfigError, InputError
from bundle.manifest import MANIFEST_NAME
from train import metrics
from train.answers import Answers, read_answers, write_answers
from train.judging import JUDGE_BATCH, predict
from train.memory import keep_freed_memory
from train.photos import load_photos, select_photos
from train.pool import compare_pools, measure_pool, pool
from train.ranks import Ranks, joined_ranks
from train.run import CONFIG_NAME, PREDICTIONS_NAME, load_run, read_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import CountClasses
    from train.data.manifest import Dataset
    from train.photos import Photo
    from train.pool import PhotoScores
    from train.progress import Progress


@dataclass(frozen=True, slots=True)
class Question:
    """On what a run or a bundle is judged, and how it looks at photos.

    Attributes:
        dataset: An opened dataset.
        split: Split or splits to judge on; None takes what a run was judged on when it was trained, "val" for a bundle.
        mirrored: Average the answers to a photo and its mirror image; for runs.
        engine: Which engine answers, for a bundle.
        ranks: Which of several processes this is.
    """

    dataset: Dataset
    split: str | None = None
    mirrored: bool = False
    engine: str = "auto"
    ranks: Ranks = field(default_factory=Ranks)


def evaluate(
    target: Path,
    question: Question,
    *,
    progress: Progress,
    counts: CountClasses | None = None,
    predictions: Path | None = None,
) -> dict[str, Any] | None:
    """Judge a run or a bundle; under torchrun, together with the other processes.

    Args:
        target: A run folder or a bundle folder.
        question: On what, and how.
        progress: Where to report.
        counts: Judge photos with these counts alone, given that the count is one of them; None takes all.
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
    with joined_ranks() as ranks:
        answers, split = ask(target, replace(question, ranks=ranks), progress)
        if not ranks.first:
            return None
    if predictions is not None:
        try:
            write_answers(predictions, answers)
        except OSError as exc:
            raise InputError(f"cannot write {predictions}", got=exc.strerror) from exc
    answers = answers if counts is None else answers.narrowed(counts)
    figures = metrics.measure(answers.judged(), answers.classes)
    return {"target": str(target), "split": split, "classes": list(answers.classes), **figures}


def evaluate_pool(
    runs: Sequence[Path],
    against: Sequence[Path],
    *,
    question: Question | None,
    progress: Progress,
    counts: CountClasses | None = None,
) -> dict[str, Any]:
    """Judge several runs as one result (folds or seeds), and compare them with others photo by photo.

    Args:
        runs: Run folders.
        against: Run folders to compare with; may be empty.
        question: How they are asked anew; None takes the answers that each kept when it was trained.
        progress: Where to report.
        counts: Judge photos with these counts alone, given that the count is one of them; None takes all.

    Returns:
        "runs", "classes", the figures of `train.pool.measure_pool`, and with `against` their own figures under
        "against" and the paired differences (ours less theirs) under "difference".

    Raises:
        InputError: Not a finished run, different classes, or different photos.
    """

    def answers(folder: Path) -> Answers:
        found = _kept(folder) if question is None else ask(folder, question, progress)[0]
        return found if counts is None else found.narrowed(counts)

    def pooled(folders: Sequence[Path]) -> PhotoScores:
        return pool([answers(folder) for folder in folders])

    ours = pooled(runs)
    found = {"targets": [str(run) for run in runs], "classes": list(ours.classes), **measure_pool(ours)}
    if against:
        theirs = pooled(against)
        found["against"] = {"targets": [str(run) for run in against], **measure_pool(theirs)}
        found["difference"] = compare_pools(ours, theirs)
    return found


def _kept(folder: Path) -> Answers:
    return read_answers(folder / PREDICTIONS_NAME, read_config(folder).config.counts)


def ask(target: Path, question: Question, progress: Progress) -> tuple[Answers, str]:
    """Ask a run or a bundle.

    Args:
        target: Run folder or bundle folder.
        question: On what, and how.
        progress: Where to report.

    Returns:
        Answers of all ranks in manifest order, and the split they are about.

    Raises:
        InputError: Neither run nor bundle, no such split, a class without photos, or an unreadable photo.
        BundleError: The bundle is damaged.
        EngineError: No engine runs the bundle.
    """
    if (target / MANIFEST_NAME).is_file():
        if question.mirrored:
            raise ConfigError("mirror images are averaged for runs alone", got=target, fix="Leave --tta away.")
        return ask_bundle(target, question, progress)
    if (target / CONFIG_NAME).is_file():
        return ask_run(target, question, progress)
    raise InputError(
        f"{target} is neither a run nor a bundle",
        got=f"no {CONFIG_NAME} and no {MANIFEST_NAME}",
        fix="Give the folder that `bintally train --out` or `bintally export --out` wrote.",
    )


def ask_run(target: Path, question: Question, progress: Progress) -> tuple[Answers, str]:
    """Ask a run's network.

    Args:
        target: Run folder.
        question: On what, and how.
        progress: Where to report.

    Returns:
        Answers of all ranks in manifest order, and the split they are about.

    Raises:
        InputError: Not a finished run, no such split, a class without photos, or an unreadable photo.
    """
    run = load_run(target)
    split = question.split or run.config.eval_split
    chosen = select_photos(question.dataset, split, run.classes)
    rows = question.ranks.rows(len(chosen), JUDGE_BATCH)
    logits = np.empty((0, len(run.classes)), np.float32)
    if len(rows):
        progress.stage(f"reading {split}", len(rows))
        mine = [chosen[row] for row in rows]
        photos = load_photos(mine, run.classes, run.preprocessing, progress=progress.done)
        logits = predict(run.module, photos, mirrored=question.mirrored)
    return _answers(run.classes, chosen, question.ranks.gather(rows, logits, len(chosen))), split


def ask_bundle(target: Path, question: Question, progress: Progress) -> tuple[Answers, str]:
    """Ask a bundle, through the Counter that a robot runs.

    Args:
        target: Bundle folder.
        question: On what, and with which engine.
        progress: Where to report.

    Returns:
        Answers of all ranks in manifest order, and the split they are about.

    Raises:
        InputError: No such split, a class without photos, or an unreadable photo.
        BundleError: The bundle is damaged.
        EngineError: No engine runs the bundle.
    """
    counter = Counter.open(target, engine=question.engine)
    split = question.split or "val"
    try:
        chosen = select_photos(question.dataset, split, counter.classes)
        rows = question.ranks.rows(len(chosen), JUDGE_BATCH)
        progress.stage(f"counting {split} with {counter.engine.name}", len(rows))
        found = [np.empty((0, len(counter.classes)))]
        for start in range(0, len(rows), JUDGE_BATCH):
            part = [images.read(chosen[row].path) for row in rows[start : start + JUDGE_BATCH]]
            found.append(counter.posteriors(part))
            progress.done(start + len(part))
        posterior = np.concatenate(found)
    finally:
        counter.close()
    logits = np.log(np.maximum(posterior, np.finfo(np.float32).tiny)).astype(np.float32)
    return _answers(counter.classes, chosen, question.ranks.gather(rows, logits, len(chosen))), split


def _answers(classes: CountClasses, photos: Sequence[Photo], logits: NDArray[np.float32]) -> Answers:
    counts = np.array([photo.count for photo in photos], dtype=np.int64)
    return Answers(classes, [photo.id for photo in photos], counts, logits)
