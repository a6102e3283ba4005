"""Runs a bundle over visits and keeps numbers, not pictures: logits, looks, and the thumbnails that tell bins apart.

Memory is bounded by a few kilobytes per frame. A visit of which a frame cannot be read is set aside with the reason.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bundle import images
from bundle.counter import posterior_from_logits
from bundle.errors import InputError
from bundle.manifest import class_index
from bundle.preprocess import normalize_batch, resize
from bundle.signals import Look, answer_signals, frame_signals, look
from calibration.labelled import Labelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from bundle.engines.base import Engine
    from bundle.manifest import Calibration, CountClasses, Manifest, Preprocessing
    from calibration.visits import Visit

_AHEAD_VISITS = 8


@dataclass(frozen=True, slots=True)
class Refused:
    """A visit that cannot be used.

    Attributes:
        name: Of the visit.
        problem: Why.
    """

    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What one bundle made of visits.

    Attributes:
        visits: Those that could be read, V of them.
        logits: float32, (F, K), one row per frame.
        frame_visit: int64, (F,), position of each frame's visit.
        looks: One per frame.
        refused: Visits that could not be read.
    """

    visits: tuple[Visit, ...]
    logits: NDArray[np.float32]
    frame_visit: NDArray[np.int64]
    looks: tuple[Look, ...]
    refused: tuple[Refused, ...]

    def __len__(self) -> int:
        """Number of usable visits."""
        return len(self.visits)

    def take(self, rows: NDArray[np.int64]) -> Observed:
        """Some of the visits.

        Args:
            rows: int64, (M,), distinct positions of visits.

        Returns:
            Their observations, in that order.
        """
        frames = [np.flatnonzero(self.frame_visit == row) for row in rows]
        flat = np.concatenate([*frames, np.zeros(0, np.int64)])
        return Observed(
            visits=tuple(self.visits[row] for row in rows),
            logits=self.logits[flat],
            frame_visit=np.repeat(np.arange(len(rows)), [len(part) for part in frames]),
            looks=tuple(self.looks[index] for index in flat),
            refused=(),
        )

    def with_logits(self, logits: NDArray[np.float32]) -> Observed:
        """The same visits with the answers of another model.

        Args:
            logits: float32, (F, K).

        Returns:
            A copy.
        """
        return replace(self, logits=logits)

    def labelled(self, classes: CountClasses) -> Labelled | None:
        """What can be learned from: visits whose label a class covers.

        Args:
            classes: K count classes.

        Returns:
            Their outputs, grouped by bin; None when there is no such visit.
        """
        indices = [-1 if visit.label is None else _index(classes, visit.label) for visit in self.visits]
        rows = np.flatnonzero(np.array(indices, np.int64) >= 0)
        if len(rows) == 0:
            return None
        part = self.take(rows)
        _, groups = np.unique([visit.bin_id for visit in part.visits], return_inverse=True)
        truth = np.array([indices[row] for row in rows], np.int64)
        return Labelled(part.logits, truth, part.frame_visit, groups.astype(np.int64))

    def posteriors(self, temperature: float, ordinal: tuple[float, float] | None = None) -> NDArray[np.float64]:
        """What a robot would say of each visit.

        Args:
            temperature: The bundle's.
            ordinal: The bundle's.

        Returns:
            float64, (V, K), frames fused.
        """
        fused = np.zeros((len(self.visits), self.logits.shape[1]))
        np.add.at(fused, self.frame_visit, posterior_from_logits(self.logits, temperature, ordinal))
        return np.asarray(fused / np.bincount(self.frame_visit, minlength=len(self.visits))[:, np.newaxis])

    def mean_view(self) -> NDArray[np.float32]:
        """The view that the visits have in common.

        Returns:
            float32, (24, 32).
        """
        return np.asarray(np.mean([one.view for one in self.looks], axis=0), np.float32)

    def signals(self, calibration: Calibration, view: NDArray[np.float32]) -> NDArray[np.float64]:
        """Drift signals of every visit.

        Args:
            calibration: Says which counts are confident.
            view: float32, (24, 32), the reference view.

        Returns:
            float64, (V, 11), in the order of `bundle.signals.SIGNALS`.
        """
        posterior = self.posteriors(calibration.temperature, calibration.ordinal)
        confident = (posterior.max(axis=1) >= calibration.threshold) & (calibration.threshold < 1)
        order = np.argsort(self.frame_visit, kind="stable")
        bounds = np.searchsorted(self.frame_visit[order], np.arange(len(self.visits) + 1))
        rows = []
        for visit in range(len(self.visits)):
            frames = order[bounds[visit] : bounds[visit + 1]]
            answer = answer_signals(self.logits[frames], posterior[visit], confident=bool(confident[visit]))
            rows.append(np.concatenate([frame_signals([self.looks[index] for index in frames], view), answer]))
        return np.array(rows)


def _index(classes: CountClasses, label: int) -> int:
    found = class_index(classes, label)
    return -1 if found is None else found


def observe(
    visits: Sequence[Visit],
    manifest: Manifest,
    engine: Engine,
    *,
    progress: Callable[[int], None] | None = None,
    prepare: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
) -> Observed:
    """Run an engine over visits as a robot does.

    Args:
        visits: At least one.
        manifest: Of the engine's bundle.
        engine: Runs one of its models.
        progress: Told after each few visits how many are done.
        prepare: Applied to every photo before preprocessing, such as `bundle.camera.Rectifier.apply`.

    Returns:
        The observations.

    Raises:
        EngineError: The engine failed.
        InputError: Not one visit could be read.
    """
    kept: list[Visit] = []
    logits: list[NDArray[np.float32]] = []
    owners: list[int] = []
    looks: list[Look] = []
    refused: list[Refused] = []
    spec = manifest.preprocessing
    for visit, pictures in _pictures(visits, spec, prepare):
        if isinstance(pictures, Refused):
            refused.append(pictures)
            continue
        # One frame at a time, as golden frames are run: integer kernels may round differently in a batch.
        logits += [engine.infer(normalize_batch(picture[np.newaxis], spec)) for picture in pictures]
        looks += [look(picture) for picture in pictures]
        owners += [len(kept)] * len(pictures)
        kept.append(visit)
        if progress is not None:
            progress(len(kept) + len(refused))
    if not kept:
        raise InputError(
            "no visit can be read",
            got="; ".join(f"{one.name}: {one.problem}" for one in refused[:3]) or "no visits",
            fix="Check the photos.",
        )
    return Observed(tuple(kept), np.concatenate(logits), np.array(owners, np.int64), tuple(looks), tuple(refused))


def _pictures(
    visits: Sequence[Visit],
    spec: Preprocessing,
    prepare: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None,
) -> Iterator[tuple[Visit, list[NDArray[np.uint8]] | Refused]]:
    """Decode a few visits ahead of the engine: bounded memory, and both cores busy."""

    def load(visit: Visit) -> list[NDArray[np.uint8]] | Refused:
        try:
            photos = [images.read(frame) for frame in visit.frames]
            return [resize(photo if prepare is None else prepare(photo), spec) for photo in photos]
        except InputError as exc:
            return Refused(visit.name, str(exc))

    with ThreadPoolExecutor(max_workers=2) as pool:
        ahead: deque[tuple[Visit, Future[list[NDArray[np.uint8]] | Refused]]] = deque()
        for visit in visits:
            ahead.append((visit, pool.submit(load, visit)))
            if len(ahead) >= _AHEAD_VISITS:
                first, pictures = ahead.popleft()
                yield first, pictures.result()
        for first, pictures in ahead:
            yield first, pictures.result()
