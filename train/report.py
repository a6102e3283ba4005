"""What the report of a run shows: its figures, its curves, what the rules say, and the photos it is wrong about."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from bundle import durable, images
from bundle.errors import InputError
from train.answers import read_answers
from train.data.manifest import Dataset
from train.rules import class_imbalance
from train.rules_speed import machine_use, verdict
from train.run import METRICS_NAME, PREDICTIONS_NAME, STREAM_NAME, read_config, read_metrics
from train.stream import read_stream
from train.watch import check_stream

if TYPE_CHECKING:
    from pathlib import Path

    from bundle.manifest import CountClasses
    from train.config import TrainConfig
    from train.finding import Finding, Record
    from train.metrics import Judged

_THUMB_PX = 132
_WORST = 16
_PER_CLASS = 8


@dataclass(frozen=True, slots=True)
class Answered:
    """One photo and what the counter said.

    Attributes:
        id: The photo's id.
        truth: True class.
        answer: Most probable class.
        confidence: Its probability.
        data_uri: The photo as a data: address, or "" when it cannot be read any more.
    """

    id: str
    truth: str
    answer: str
    confidence: float
    data_uri: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """Everything that the page shows.

    Attributes:
        name: Of the run folder.
        config: The resolved configuration.
        figures: metrics.json.
        judged: Answers beside the truth.
        classes: Count classes.
        steps: Step records.
        epochs: Epoch records.
        findings: What the rules say.
        speed: Where the time of a step went, in words.
        worst: The most confident mistakes.
        samples: Photos per true class with their answers.
    """

    name: str
    config: TrainConfig
    figures: dict[str, Any]
    judged: Judged
    classes: CountClasses
    steps: list[Record]
    epochs: list[Record]
    findings: list[Finding]
    speed: str
    worst: list[Answered]
    samples: dict[str, list[Answered]]


def write_report(folder: Path, path: Path) -> RunReport:
    """Write the report of a finished run as one HTML file that needs no other file and no network.

    Args:
        folder: The run folder.
        path: Destination.

    Returns:
        What it shows.

    Raises:
        InputError: Not a finished run, or the report cannot be written.
        ConfigError: The run's configuration was edited.
    """
    from train.report_page import render

    found = gather(folder)
    try:
        durable.write_bytes(path, render(found).encode())
    except OSError as exc:
        raise InputError(f"cannot write the report {path}", got=exc.strerror) from exc
    return found


def gather(folder: Path) -> RunReport:
    """Collect what the report of a run shows.

    Args:
        folder: The run folder.

    Returns:
        The report's content; where the dataset is gone, without its photos.

    Raises:
        InputError: Not a finished run.
        ConfigError: The run's configuration was edited.
    """
    started = read_config(folder)
    config, origin = started.config, started.origin
    figures = read_metrics(folder / METRICS_NAME)
    kept = read_answers(folder / PREDICTIONS_NAME, config.counts)
    records = list(read_stream(folder / STREAM_NAME))
    steps = [record for record in records if record["kind"] == "step"]
    loads = [record for record in records if record["kind"] == "system"]
    photos = _photo_paths(origin.dataset)
    judged = kept.judged()
    answers = _Answers(config.counts, kept.ids, judged, photos)
    return RunReport(
        name=folder.resolve().name,
        config=config,
        figures=figures,
        judged=judged,
        classes=config.counts,
        steps=steps,
        epochs=[record for record in records if record["kind"] == "epoch"],
        findings=[*check_stream(records), *_imbalance(figures)],
        speed="; ".join(filter(None, [verdict(steps), machine_use(loads)])),
        worst=answers.worst(),
        samples=answers.per_class(),
    )


class _Answers:
    """Chooses photos worth looking at."""

    def __init__(self, classes: CountClasses, ids: list[str], judged: Judged, photos: dict[str, Path]) -> None:
        self._classes, self._ids, self._judged, self._photos = classes, ids, judged, photos

    def worst(self) -> list[Answered]:
        """The mistakes that are furthest off, the most confident first among equals."""
        judged = self._judged
        distance = np.abs(judged.answer - judged.truth)
        order = np.lexsort((-judged.posterior.max(axis=1), -distance))
        return [self._show(int(row)) for row in order[:_WORST] if distance[row] > 0]

    def per_class(self) -> dict[str, list[Answered]]:
        """The first photos of each true class, in the order of the dataset."""
        return {
            name: [self._show(int(row)) for row in np.flatnonzero(self._judged.truth == index)[:_PER_CLASS]]
            for index, name in enumerate(self._classes)
        }

    def _show(self, row: int) -> Answered:
        judged = self._judged
        best = int(judged.answer[row])
        return Answered(
            id=self._ids[row],
            truth=self._classes[int(judged.truth[row])],
            answer=self._classes[best],
            confidence=float(judged.posterior[row, best]),
            data_uri=_thumb(self._photos.get(self._ids[row])),
        )


def _imbalance(figures: dict[str, Any]) -> list[Finding]:
    support = {name: int(row["support"]) for name, row in figures["per_class"].items()}
    misses = {name: 1 - float(row["recall"]) for name, row in figures["per_class"].items()}
    return class_imbalance(support, misses, step=0)


def _photo_paths(folder: Path) -> dict[str, Path]:
    try:
        dataset = Dataset.open(folder)
    except InputError:
        # The figures stand without the photos; a run outlives its dataset.
        return {}
    return {dataset.id_of(row): dataset.path_of(row) for row in range(len(dataset))}


def _thumb(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        image = images.read(path)
    except InputError:
        return ""
    scale = _THUMB_PX / image.shape[0]
    size = max(1, round(image.shape[1] * scale)), _THUMB_PX
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    data = base64.b64encode(images.encode_jpeg(np.asarray(small, dtype=np.uint8), quality=82)).decode()
    return f"data:image/jpeg;base64,{data}"
