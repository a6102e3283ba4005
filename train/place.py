"""Where a training reads and writes, and whether its run folder may be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bundle import durable
from bundle.errors import ConfigError, InputError
from train.data.shards import INDEX_NAME
from train.ranks import Ranks
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
from train.teachers import teacher_hashes

if TYPE_CHECKING:
    from pathlib import Path

    from train.config import TrainConfig

_RUN_FILES = (CONFIG_NAME, CHECKPOINT_NAME, METRICS_NAME, MODEL_NAME, PREDICTIONS_NAME, REPORT_NAME, STREAM_NAME)
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training reads and writes, and how fast.

    What changes a weight here is hashed into the configuration; `threads` and `compiled` change last bits.

    Attributes:
        dataset: Dataset folder.
        out: Run folder.
        weights: File to start from, when `config.model.weights` is "file".
        teachers: Finished runs to learn from.
        shards: Folder of packed photos, read instead of the photos themselves.
        device: "auto", "cpu" or a torch device.
        threads: Threads that torch computes with; None takes OMP_NUM_THREADS, or this process's share of the cores.
        workers: Threads that prepare batches.
        memory_bytes: Photos that take more stay on disk.
        checkpoint_s: Longest time between two checkpoints, seconds.
        resume: Go on from `out`'s checkpoint, or its mirror's; starts fresh where there is none.
        overwrite: Delete the run that is in `out`.
        mirror: S3 address where checkpoints and the result go too.
        compiled: Run the network through torch.compile.
        deterministic: Refuse operations whose result depends on timing.
        track: Trackers by name; see `train.tracking`.
        ranks: Which of several processes this is.
    """

    dataset: Path
    out: Path
    weights: Path | None = None
    teachers: tuple[Path, ...] = ()
    shards: Path | None = None
    device: str = "auto"
    threads: int | None = None
    workers: int = 1
    memory_bytes: int = 4 * _GIB
    checkpoint_s: float = 300.0
    resume: bool = False
    overwrite: bool = False
    mirror: str | None = None
    compiled: bool = False
    deterministic: bool = False
    track: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=Ranks)


def with_hashes(config: TrainConfig, place: Place) -> TrainConfig:
    """Write into a configuration the hashes of the files that decide the result besides it.

    Args:
        config: As asked for.
        place: Names weights, teachers and shards.

    Returns:
        The configuration that is saved and hashed.

    Raises:
        ConfigError: `model.weights` and the weights file disagree.
        InputError: A file cannot be read.
    """
    if (config.model.weights == "file") != (place.weights is not None):
        raise ConfigError(
            "model.weights and the weights file disagree",
            got=f"model.weights = {config.model.weights!r}, --weights {place.weights}",
            expected="--weights none, --weights hub or --weights FILE",
        )
    if place.weights is not None:
        model = config.model.model_copy(update={"weights_sha256": _hash(place.weights)})
        config = config.model_copy(update={"model": model})
    if place.teachers:
        distill = config.distill.model_copy(update={"teachers_sha256": teacher_hashes(place.teachers)})
        config = config.model_copy(update={"distill": distill})
    if place.shards is not None:
        config = config.model_copy(update={"shards_sha256": _hash(place.shards / INDEX_NAME)})
    return config


def prepare_folder(config: TrainConfig, place: Place, dataset_sha256: str) -> str:
    """Make or check the run folder.

    Args:
        config: With hashes.
        place: Where.
        dataset_sha256: Hash of the dataset's manifest.

    Returns:
        The configuration's hash that the run's checkpoints carry.

    Raises:
        ConfigError: The folder holds a run that may not be touched, or another one than is resumed.
        InputError: The disk refused.
    """
    if (place.out / CONFIG_NAME).exists() and not place.overwrite:
        if not place.resume:
            raise ConfigError(
                f"{place.out} already holds a run",
                fix="Go on with --resume, start again with --overwrite, or choose another --out.",
            )
        return require_same(config, place, dataset_sha256)
    try:
        place.out.mkdir(parents=True, exist_ok=True)
        for name in _RUN_FILES:
            (place.out / name).unlink(missing_ok=True)
        write_config(place.out, config, Origin(place.dataset.resolve(), dataset_sha256, place.weights))
    except OSError as exc:
        raise InputError(f"cannot write the run folder {place.out}", got=exc.strerror) from exc
    return config.digest()


def require_same(config: TrainConfig, place: Place, dataset_sha256: str) -> str:
    """Refuse to go on with a run that was started with something else.

    Args:
        config: With hashes.
        place: Where the run is.
        dataset_sha256: Hash of the dataset's manifest.

    Returns:
        The configuration's hash that the run's checkpoints carry.

    Raises:
        ConfigError: Another configuration or dataset; the message names every difference.
    """
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


def _hash(path: Path) -> str:
    try:
        return durable.sha256_file(path)
    except OSError as exc:
        raise InputError(f"cannot read {path}", got=exc.strerror) from exc


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, old in before.items():
        new = now[key]
        if isinstance(old, dict) and isinstance(new, dict) and key != "options":
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old!r} and is {new!r}")
    return found
