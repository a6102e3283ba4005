# ruff: noqa: TID253 - sets torch up before it is used
"""One training from dataset to judged run: the steps in order, with their effects on disk."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bundle import durable
from bundle.errors import BintallyError, ConfigError, InputError
from train import checkpoint, metrics
from train.answers import Answers, write_answers
from train.compute import device_of, threads_of
from train.data.loader import Shards
from train.data.manifest import Dataset
from train.heads import narrow_head
from train.judging import predict
from train.learner import build_learner
from train.loop import Settings, fit
from train.memory import keep_freed_memory, memory_error
from train.mirror import RESULT, Mirror
from train.model import build_model, preprocessing_of, require_sizes
from train.photos import load_photos, select_photos
from train.place import Place, prepare_folder, with_hashes
from train.progress import Silent
from train.ranks import joined_ranks
from train.report import write_report
from train.run import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    METRICS_NAME,
    MODEL_NAME,
    PREDICTIONS_NAME,
    REPORT_NAME,
)
from train.teachers import Teachers
from train.tracking import open_trackers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from train.config import TrainConfig
    from train.learner import Learner
    from train.photos import Photo, PhotoSet
    from train.progress import Progress
    from train.tracking import Tracker


def train(
    config: TrainConfig,
    place: Place,
    *,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Train, judge and write a run folder; under torchrun, together with the other processes.

    Args:
        config: What to compute.
        place: From where, to where, how fast.
        progress: Where to report; the first rank alone does.
        stop: Asked after every update; True writes a checkpoint and ends.
        on_epoch: Told each epoch's record once its checkpoint is on disk; may raise to end the run.

    Returns:
        The figures of metrics.json.

    Raises:
        ConfigError: The configuration does not fit the dataset, the weights or the run that is in `place.out`.
        InputError: Dataset, weights or a photo cannot be used, the disk refused, or memory ran out.
        DeliveryError: The mirror could not be read, or refused the result.
        StopRequestedError: `stop` said so.
    """
    keep_freed_memory()
    torch.set_num_threads(threads_of(place, os.environ))
    if place.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
    torch.use_deterministic_algorithms(place.deterministic)
    with joined_ranks() as ranks, memory_error(f"batch_size = {config.batch_size}, model.size = {config.model.size}"):
        place = replace(place, ranks=ranks)
        return _train(config, place, progress if ranks.first else Silent(), stop, on_epoch)


def _train(
    config: TrainConfig,
    place: Place,
    progress: Progress,
    stop: Callable[[], bool],
    on_epoch: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    # Everything that can be refused is refused before the run folder is touched.
    dataset = Dataset.open(place.dataset)
    config = with_hashes(config, place)
    learner = start_learner(config, place)
    balance_with = config.seed if config.balance == "undersample" else None
    chosen = select_photos(dataset, config.train_split, config.learned, balance_with=balance_with)
    held_back = select_photos(dataset, config.eval_split, config.counts)
    teachers = open_teachers(config, place, dataset.digest)
    mirror = Mirror(place.mirror, place.out) if place.mirror and place.ranks.first else None
    config_sha256 = _claim(config, place, dataset.digest, mirror, progress)
    path, state = place.out / CHECKPOINT_NAME, None
    if place.ranks.first and path.is_file():
        state = checkpoint.load(path, config_sha256=config_sha256, dataset_sha256=dataset.digest)
    state = place.ranks.share(state)  # the others' hosts need not see the run folder
    if state is not None:
        learner.restore(state)
        progress.line(f"going on from epoch {learner.position.epoch + 1}, step {learner.position.step}")
    learned = load_split(chosen, config, place, dataset, progress)
    judged_on = load_split(held_back, config, place, dataset, progress)
    trackers = open_trackers(place.track, place.out, config) if place.ranks.first else []
    with closing(_All(trackers)):
        settings = Settings(
            folder=place.out,
            config_sha256=config_sha256,
            dataset_sha256=dataset.digest,
            device=device_of(place),
            workers=place.workers,
            checkpoint_s=place.checkpoint_s,
            compiled=place.compiled,
            ranks=place.ranks,
            mirror=mirror,
            trackers=trackers,
        )
        fit(
            learner,
            learned,
            judged_on,
            config,
            settings,
            progress=progress,
            teachers=teachers,
            stop=stop,
            on_epoch=on_epoch,
        )
    figures = _finish(learner, judged_on, config, place)
    if mirror is not None:
        mirror.push(RESULT)
    return figures


class _All:
    """Closes every tracker."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = trackers

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def _claim(config: TrainConfig, place: Place, dataset_sha256: str, mirror: Mirror | None, progress: Progress) -> str:
    """Prepare the run folder, on the first rank; gives the configuration's hash that its checkpoints carry."""
    ranks, found = place.ranks, ""
    failed: BintallyError | None = None
    if ranks.first:
        try:
            if mirror is not None and _meet(mirror, place):
                progress.line(f"fetched the run from {place.mirror}")
            found = prepare_folder(config, place, dataset_sha256)
            if mirror is not None:
                mirror.push([CONFIG_NAME])
        except BintallyError as exc:
            failed = exc
    # The other ranks would wait for a first one that has gone.
    if ranks.any(here=failed is not None):
        raise failed or ConfigError("the first process could not prepare the run folder", got=place.out)
    return found


def _meet(mirror: Mirror, place: Place) -> bool:
    """Fetch the run that the mirror holds, make room for another one there, or refuse; says whether it was fetched."""
    if place.overwrite:
        mirror.clear()
    elif place.resume:
        return not (place.out / CONFIG_NAME).exists() and mirror.fetch()
    elif mirror.holds_run():
        raise ConfigError(
            f"{place.mirror} already holds a run",
            fix="Go on with --resume, start again with --overwrite, or choose another --mirror.",
        )
    return False


def start_learner(config: TrainConfig, place: Place) -> Learner:
    """Build a network at its starting line.

    Args:
        config: What to compute.
        place: Names weights and device.

    Returns:
        The learner at step 0.

    Raises:
        ConfigError: Unknown model name or option, no such device, or a size that the network does not take.
        InputError: The weights do not fit, or cannot be read or downloaded.
    """
    device = device_of(place)
    torch.manual_seed(config.seed)
    model = build_model(config.model, config.learned, weights=place.weights)
    require_sizes(model, config.model.name, {config.model.size, *(stage.size for stage in config.stages)})
    return build_learner(model, config, device, channels_last=True)


def open_teachers(config: TrainConfig, place: Place, dataset_sha256: str) -> Teachers | None:
    """Load whom to learn from.

    Args:
        config: The student's.
        place: Names them, and the device.
        dataset_sha256: Hash of the manifest that the student learns from.

    Returns:
        The teachers, or None where none are named.

    Raises:
        InputError: Not a finished run.
        ConfigError: A teacher does not fit the student.
    """
    if not place.teachers:
        return None
    return Teachers(place.teachers, config, preprocessing_of(config.model), device_of(place), dataset_sha256)


def load_split(
    chosen: list[Photo], config: TrainConfig, place: Place, dataset: Dataset, progress: Progress
) -> PhotoSet:
    """Read photos as a training needs them.

    Args:
        chosen: Which.
        config: Count classes and preprocessing.
        place: From where, and how much memory they may take.
        dataset: That they belong to.
        progress: Where to report.

    Returns:
        The photos.

    Raises:
        InputError: A photo cannot be read, or the shards do not belong to the dataset.
    """
    progress.stage("reading photos", len(chosen))
    # Targets are indices of the learned classes in both sets: judging subtracts the readout's start.
    return load_photos(
        chosen,
        config.learned,
        preprocessing_of(config.model),
        max_bytes=place.memory_bytes,
        shards=None if place.shards is None else _shards(place.shards, dataset),
        progress=progress.done,
    )


def _shards(folder: Path, dataset: Dataset) -> Shards:
    shards = Shards(folder)
    if shards.dataset != dataset.digest:
        raise InputError(
            f"{folder} was packed from another dataset",
            got=shards.dataset[:12],
            expected=dataset.digest[:12],
            fix="Pack it again with `bintally data shards`.",
        )
    return shards


def _finish(learner: Learner, judged_on: PhotoSet, config: TrainConfig, place: Place) -> dict[str, Any]:
    """Cut the head to the count classes, judge it, and write the result."""
    model = learner.average.module
    here = learner.position
    if learner.best is not None:
        model.load_state_dict(learner.best)
    model = narrow_head(model, config.readout).to("cpu").to(memory_format=torch.contiguous_format)
    logits = predict(model, judged_on, ranks=place.ranks)
    ids = [photo.id for photo in judged_on.photos]
    counts = np.array([photo.count for photo in judged_on.photos], dtype=np.int64)
    answers = Answers(config.counts, ids, counts, logits)
    chosen = here.best_epoch + 1 if learner.best is not None else here.epoch
    figures = {"split": config.eval_split, "classes": list(config.counts), "epoch": chosen}
    figures |= metrics.measure(answers.judged(), config.counts)
    if not place.ranks.first:
        return figures
    folder = place.out
    try:
        checkpoint.save_weights(folder / MODEL_NAME, model.state_dict())
        write_answers(folder / PREDICTIONS_NAME, answers)
        durable.write_json(folder / METRICS_NAME, figures)
    except OSError as exc:
        raise InputError(
            f"cannot write the result to {folder}", got=exc.strerror, fix="Make room, then --resume."
        ) from exc
    write_report(folder, folder / REPORT_NAME)
    return figures
