# ruff: noqa: TID253 - sets torch up before it is used
"""One training from dataset to judged run: the steps in order, with their effects on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bundle import durable
from bundle.errors import ConfigError, InputError
from train import checkpoint, metrics
from train.answers import Answers, write_answers
from train.data.manifest import Dataset
from train.judging import predict
from train.learner import build_learner
from train.loop import Settings, fit
from train.memory import keep_freed_memory
from train.model import build_model, narrow_head, preprocessing_of
from train.photos import load_photos, select_photos
from train.report import write_report
from train.run import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    METRICS_NAME,
    MODEL_NAME,
    PREDICTIONS_NAME,
    REPORT_NAME,
    STREAM_NAME,
    Origin,
    read_config,
    write_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from train.config import TrainConfig
    from train.learner import Learner
    from train.photos import Photo, PhotoSet
    from train.progress import Progress

_RUN_FILES = (CONFIG_NAME, CHECKPOINT_NAME, METRICS_NAME, MODEL_NAME, PREDICTIONS_NAME, REPORT_NAME, STREAM_NAME)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training reads and writes, and how fast; nothing here changes a weight, `threads` in the last bits aside.

    Attributes:
        dataset: Dataset folder.
        out: Run folder.
        weights: File to start from, when `config.model.weights` is "file".
        device: "auto", "cpu" or a torch device.
        threads: Threads that torch computes with; None takes every core.
        workers: Threads that prepare batches.
        checkpoint_s: Longest time between two checkpoints, seconds.
        resume: Go on from `out`'s checkpoint; starts fresh where there is none.
        overwrite: Delete the run that is in `out`.
    """

    dataset: Path
    out: Path
    weights: Path | None = None
    device: str = "auto"
    threads: int | None = None
    workers: int = 1
    checkpoint_s: float = 300.0
    resume: bool = False
    overwrite: bool = False


def train(
    config: TrainConfig,
    place: Place,
    *,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Train, judge and write a run folder.

    Args:
        config: What to compute.
        place: From where, to where, how fast.
        progress: Where to report.
        stop: Asked after every update; True writes a checkpoint and ends.
        on_epoch: Told each epoch's record once its checkpoint is on disk; may raise to end the run.

    Returns:
        The figures of metrics.json.

    Raises:
        ConfigError: The configuration does not fit the dataset, the weights or the run that is in `place.out`.
        InputError: Dataset, weights or a photo cannot be used, or the disk refused.
        StopRequestedError: `stop` said so.
    """
    keep_freed_memory()
    torch.set_num_threads(place.threads or os.cpu_count() or 1)
    dataset = Dataset.open(place.dataset)
    config = _with_weights_hash(config, place)
    config_sha256 = _prepare_folder(config, place, dataset.digest)
    settings = Settings(
        folder=place.out,
        config_sha256=config_sha256,
        dataset_sha256=dataset.digest,
        device=_device(place.device),
        workers=place.workers,
        checkpoint_s=place.checkpoint_s,
    )
    torch.manual_seed(config.seed)
    learner = build_learner(
        build_model(config.model, config.learned, weights=place.weights),
        config,
        settings.device,
        channels_last=settings.channels_last,
    )
    path = place.out / CHECKPOINT_NAME
    if path.is_file():
        learner.restore(checkpoint.load(path, config_sha256=config_sha256, dataset_sha256=dataset.digest))
        progress.line(f"going on from epoch {learner.position.epoch + 1}, step {learner.position.step}")
    balance_with = config.seed if config.balance == "undersample" else None
    learned = _load(
        select_photos(dataset, config.train_split, config.learned, balance_with=balance_with), config, progress
    )
    judged_on = _load(select_photos(dataset, config.eval_split, config.counts), config, progress)
    fit(learner, learned, judged_on, config, settings, progress=progress, stop=stop, on_epoch=on_epoch)
    figures = _finish(learner, judged_on, config, place.out)
    write_report(place.out, place.out / REPORT_NAME)
    return figures


def _load(chosen: list[Photo], config: TrainConfig, progress: Progress) -> PhotoSet:
    progress.stage("reading photos", len(chosen))
    # Targets are indices of the learned classes in both sets: judging subtracts the readout's start.
    return load_photos(chosen, config.learned, preprocessing_of(config.model), progress=progress.done)


def _with_weights_hash(config: TrainConfig, place: Place) -> TrainConfig:
    if (config.model.weights == "file") != (place.weights is not None):
        raise ConfigError(
            "model.weights and the weights file disagree",
            got=f"model.weights = {config.model.weights!r}, --weights {place.weights}",
            expected="--weights none, --weights hub or --weights FILE",
        )
    if place.weights is None:
        return config
    try:
        found = durable.sha256_file(place.weights)
    except OSError as exc:
        raise InputError(f"cannot read weights from {place.weights}", got=exc.strerror) from exc
    return config.model_copy(update={"model": config.model.model_copy(update={"weights_sha256": found})})


def _prepare_folder(config: TrainConfig, place: Place, dataset_sha256: str) -> str:
    """Make or check the run folder; gives the configuration's hash that its checkpoints carry."""
    if (place.out / CONFIG_NAME).exists() and not place.overwrite:
        if not place.resume:
            raise ConfigError(
                f"{place.out} already holds a run",
                fix="Go on with --resume, start again with --overwrite, or choose another --out.",
            )
        return _require_same(config, place, dataset_sha256)
    try:
        place.out.mkdir(parents=True, exist_ok=True)
        for name in _RUN_FILES:
            (place.out / name).unlink(missing_ok=True)
        write_config(place.out, config, Origin(place.dataset.resolve(), dataset_sha256, place.weights))
    except OSError as exc:
        raise InputError(f"cannot write the run folder {place.out}", got=exc.strerror) from exc
    return config.digest()


def _require_same(config: TrainConfig, place: Place, dataset_sha256: str) -> str:
    started = read_config(place.out)
    if started.config != config:
        raise ConfigError(
            f"the run in {place.out} has another configuration",
            got=", ".join(_differences(started.config.model_dump(), config.model_dump())),
            fix="Resume with the flags it was started with, or train into another folder.",
        )
    if started.origin.dataset_sha256 != dataset_sha256:
        raise ConfigError(
            f"the run in {place.out} learned from another dataset",
            got=dataset_sha256[:12],
            expected=started.origin.dataset_sha256[:12],
            fix="Resume with the dataset it was started with, or train into another folder.",
        )
    return started.sha256


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, old in before.items():
        new = now[key]
        if isinstance(old, dict) and isinstance(new, dict) and key != "options":
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old!r} and is {new!r}")
    return found


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _finish(learner: Learner, judged_on: PhotoSet, config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Cut the head to the count classes, judge it, and write the result."""
    model = learner.average.module
    if learner.best is not None:
        model.load_state_dict(learner.best)
    model = narrow_head(model, config.readout).to("cpu").to(memory_format=torch.contiguous_format)
    ids = [photo.id for photo in judged_on.photos]
    counts = np.array([photo.count for photo in judged_on.photos], dtype=np.int64)
    answers = Answers(config.counts, ids, counts, predict(model, judged_on))
    figures = metrics.measure(answers.judged(), config.counts)
    chosen = learner.position.best_epoch if learner.best is not None else config.epochs - 1
    figures = {"split": config.eval_split, "classes": list(config.counts), "epoch": chosen + 1} | figures
    try:
        checkpoint.save_weights(folder / MODEL_NAME, model.state_dict())
        write_answers(folder / PREDICTIONS_NAME, answers)
        durable.write_json(folder / METRICS_NAME, figures)
    except OSError as exc:
        raise InputError(
            f"cannot write the result to {folder}", got=exc.strerror, fix="Make room, then --resume."
        ) from exc
    return figures
