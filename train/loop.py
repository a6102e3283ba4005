"""The training loop: one linear story, resumable at every update.

What a step computes depends on its position alone: the order and the augmentation come from (seed, epoch,
photo), dropout from (seed, step), the learning rate from the step. So a checkpoint needs the weights, their
average, the optimiser and a few numbers, and a run that was killed at any moment ends bit for bit like one
that was not (on CPU, with the same number of threads and processes).
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.batches import Reading, epoch_batches, training_batches
from train.heads import head_name
from train.judging import judge_epoch, probe_of
from train.load import LoadSampler
from train.optimizer import learning_rate
from train.progress import epoch_line
from train.ranks import Ranks
from train.run import CHECKPOINT_NAME, STREAM_NAME
from train.saver import Saver
from train.step import Stepper
from train.stream import MetricStream, read_stream
from train.watch import check_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from train.config import TrainConfig
    from train.learner import Learner
    from train.mirror import Mirror
    from train.photos import PhotoSet
    from train.progress import Progress
    from train.teachers import Teachers
    from train.tracking import Tracker


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides how fast a run is and who hears of it, not what it computes.

    Attributes:
        folder: The run folder.
        config_sha256: Written into checkpoints.
        dataset_sha256: Likewise.
        device: Where torch computes.
        workers: Threads that prepare batches.
        checkpoint_s: Longest time between two checkpoints, seconds.
        log_every: Steps between two lines of metrics.jsonl.
        channels_last: Memory order of activations; faster on CPU and on tensor cores.
        compiled: Run the network through torch.compile; changes the last bits.
        ranks: Which of several processes this is; the first one writes.
        mirror: Where checkpoints go besides the run folder.
        trackers: Who hears of every record.
    """

    folder: Path
    config_sha256: str
    dataset_sha256: str
    device: str = "cpu"
    workers: int = 1
    checkpoint_s: float = 300.0
    log_every: int = 10
    channels_last: bool = True
    compiled: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    mirror: Mirror | None = None
    trackers: Sequence[Tracker] = ()


class StopRequestedError(Exception):
    """The run was asked to stop; its checkpoint is on disk."""


def fit(  # noqa: PLR0913 - what to learn, from what and whom, how, and who is told
    learner: Learner,
    photos: PhotoSet,
    judged_on: PhotoSet,
    config: TrainConfig,
    settings: Settings,
    *,
    progress: Progress,
    teachers: Teachers | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Train to the end, from wherever the learner stands.

    Args:
        learner: Fresh or restored; holds the result.
        photos: Training photos, every one with a class.
        judged_on: Photos to judge with after each epoch.
        config: What to compute.
        settings: How fast.
        progress: Where to report.
        teachers: Whom to learn from besides the labels.
        stop: Asked after every update; True writes a checkpoint and ends.
        on_epoch: Told each epoch's record once its checkpoint is on disk; may raise to end the run.

    Raises:
        DivergedError: The loss is not a number any more.
        InputError: A photo cannot be read, or the disk refused a checkpoint.
        StopRequestedError: `stop` said so, here or on another rank.
    """
    here, ranks = learner.position, settings.ranks
    stream_path = settings.folder / STREAM_NAME if ranks.first else Path(os.devnull)
    stream = MetricStream(stream_path, keep_bytes=here.stream_bytes, trackers=settings.trackers)
    saver = Saver(learner, stream, settings.folder / CHECKPOINT_NAME, settings, progress)
    stepper = Stepper(
        learner, config, ranks, teachers=teachers, channels_last=settings.channels_last, compiled=settings.compiled
    )
    probe = probe_of(photos, config)
    total = _updates(photos, config) * config.epochs
    progress.stage("training", total)
    try:
        with LoadSampler(settings.device) as load:
            while here.epoch < config.epochs and not here.stopped:
                began, first_step = time.monotonic(), here.step
                for record, asked in _train_epoch(stepper, learner, photos, config, settings, total, stop):
                    if here.step % settings.log_every == 0:
                        stream.append_all([record, *load.take(here.step)])
                    stream.append_all(stepper.take_probe())
                    progress.done(here.step, f"loss {record['loss']:.3f}  {record['images_per_s']:.0f}/s")
                    if asked:
                        saver.save(last=True)
                        raise StopRequestedError
                    saver.save_if_due()
                seconds = time.monotonic() - began
                saver.require_finite()
                record = judge_epoch(learner, judged_on, probe, config, ranks)
                record["images_per_s"] = (here.step - first_step) * config.batch_size * config.accumulate / seconds
                stream.append(record | {"seconds": round(seconds, 3)})
                progress.line(epoch_line(record | {"seconds": seconds}))
                if ranks.first:
                    stream.flush()  # the rules read what was written
                here.stopped = _ends_early(learner, config, ranks, stream_path, progress)
                saver.save()
                on_epoch(record)
    finally:
        stream.append_all(stepper.take_probe())
        stream.close()


def _train_epoch(  # noqa: PLR0913, PLR0917 - a part of `fit`, cut out to be read alone
    stepper: Stepper,
    learner: Learner,
    photos: PhotoSet,
    config: TrainConfig,
    settings: Settings,
    total: int,
    stop: Callable[[], bool],
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Learn from the rest of the current epoch; yields each update's record and whether to stop."""
    here = learner.position
    set_training(learner.model, frozen=config.model.frozen)
    size = config.size_at(here.epoch)
    reading = Reading(here.epoch, here.batch, size, settings.workers, settings.ranks)
    in_epoch = len(epoch_batches(photos, config, here.epoch))
    mark, waited, seen = time.monotonic(), 0.0, 0
    asked_for_batch = mark
    for batch in training_batches(photos, config, reading):
        waited += time.monotonic() - asked_for_batch
        stepper.backward(batch)
        here.batch += 1
        seen += batch.whole
        if here.batch % config.accumulate == 0 or here.batch >= in_epoch:
            rate = learning_rate(here.step, total, config.optimizer)
            record, asked = stepper.update(rate, asked_to_stop=stop())
            now = time.monotonic()
            times = {"data_s": round(waited, 5), "step_s": round(now - mark, 5)}
            yield record | times | {"images_per_s": round(seen / (now - mark), 2)}, asked
            mark, waited, seen = now, 0.0, 0
        asked_for_batch = time.monotonic()


def _ends_early(learner: Learner, config: TrainConfig, ranks: Ranks, stream_path: Path, progress: Progress) -> bool:
    """Decide at an epoch's end whether going on is worth it; the same on every rank."""
    here = learner.position
    if config.patience and here.epoch - 1 - here.best_epoch >= config.patience:
        progress.line(f"stopped: nothing better than epoch {here.best_epoch + 1} in {config.patience} epochs")
        return True
    if not config.stop_on_rules:
        return False
    found = [finding for finding in check_stream(list(read_stream(stream_path))) if finding.severity == "stop"]
    for finding in found:
        progress.line(f"stopped by the rule {finding.rule}: {finding.message}")
    return ranks.any(here=bool(found))


def _updates(photos: PhotoSet, config: TrainConfig) -> int:
    return math.ceil(len(epoch_batches(photos, config, 0)) / config.accumulate)


def set_training(model: nn.Module, *, frozen: bool) -> None:
    """Training mode; a frozen backbone keeps its statistics too, or it would not be frozen.

    Args:
        model: What learns.
        frozen: Whether its head alone does.
    """
    model.train(mode=not frozen)
    if frozen:
        model.get_submodule(head_name(model)).train()
