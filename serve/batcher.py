"""Frames of many callers through one engine: whatever has queued while the last batch ran is the next batch.

Nobody waits for a batch to fill: alone, a frame goes at once; under load, batches grow by themselves. The queue is
bounded, and what does not fit is refused at once, because an answer that comes after the caller gave up costs the
others theirs.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.errors import BintallyError, EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.counter import Counter

_JOIN_S = 30.0


class OverloadedError(BintallyError):
    """Too much is waiting; the caller should come back in a moment."""

    exit_code = 75


@dataclass(frozen=True, slots=True)
class _Job:
    """Frames of one visit, and where their posteriors go."""

    tensor: NDArray[np.float32]
    answer: Future[NDArray[np.float64]]


class Batcher:
    """Owns a counter's engine on a thread of its own.

    Args:
        counter: Its engine is used by this batcher alone from now on.
        max_batch: Most frames in one call of the engine.
        max_queue: Most visits that wait.
    """

    def __init__(self, counter: Counter, *, max_batch: int = 8, max_queue: int = 64) -> None:
        self._counter = counter
        self._max_batch = max_batch
        self._queue: queue.Queue[_Job | None] = queue.Queue(max_queue)
        self._closed = threading.Event()
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, tensor_nchw: NDArray[np.float32]) -> Future[NDArray[np.float64]]:
        """Queue the frames of one visit.

        Args:
            tensor_nchw: float32, (N, 3, h, w), of `Counter.tensor`.

        Returns:
            Will hold the posteriors, float64 (N, K), or an EngineError.

        Raises:
            OverloadedError: The queue is full, or nobody answers any more.
        """
        job = _Job(tensor_nchw, Future())
        with self._gate:  # nothing is queued behind the mark that `close` puts last
            if not self.alive():
                raise OverloadedError("the service is stopping")
            try:
                self._queue.put_nowait(job)
            except queue.Full as exc:
                raise OverloadedError("too many photos are waiting", got=self._queue.maxsize, fix="Try again.") from exc
        return job.answer

    def alive(self) -> bool:
        """Whether frames are still answered.

        Returns:
            False once the batcher is closed or its thread has died.
        """
        return self._thread.is_alive() and not self._closed.is_set()

    def close(self) -> None:
        """Answer what is queued, then stop and free the engine."""
        with self._gate:
            self._closed.set()
        self._queue.put(None)
        self._thread.join(_JOIN_S)
        self._counter.close()

    def _work(self) -> None:
        waiting: _Job | None = None
        while True:
            first = waiting or self._queue.get()
            if first is None:
                return
            batch, waiting = self._gather(first)
            self._answer(batch)
            if waiting is None and self._closed.is_set() and self._queue.empty():
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], _Job | None]:
        """Everything that waits and fits; and the job that no longer did."""
        batch, frames = [first], len(first.tensor)
        while frames < self._max_batch:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                break
            if frames + len(job.tensor) > self._max_batch:
                return batch, job
            batch.append(job)
            frames += len(job.tensor)
        return batch, None

    def _answer(self, batch: list[_Job]) -> None:
        try:
            posteriors = self._counter.posteriors_of(np.concatenate([job.tensor for job in batch]))
        except EngineError as exc:
            for job in batch:
                job.answer.set_exception(exc)
            return
        start = 0
        for job in batch:
            end = start + len(job.tensor)
            job.answer.set_result(posteriors[start:end])
            start = end
