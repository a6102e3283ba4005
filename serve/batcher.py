"""Frames of many callers through one engine: whatever has queued while the last batch ran is the next batch.

Nobody waits for a batch to fill: alone, a frame goes at once; under load, batches grow by themselves. The queue is
bounded, and what does not fit is refused at once, because an answer that comes after the caller gave up costs the
others theirs.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.errors import BintallyError, EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.counter import Counter

_DRAIN_S = 8.0
"""So long `close` answers what is queued; the rest is refused."""
_JOIN_S = 10.0
"""So long `close` then waits for the batch that is running."""


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
        self._closed, self._given_up = threading.Event(), threading.Event()
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
                raise _stopping()
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
        """Answer what is queued, or refuse what is not answered in 8 s; then stop and free the engine."""
        with self._gate:
            self._closed.set()
        with suppress(queue.Full):  # then the thread is at work, and sees that it is closed when the queue is empty
            self._queue.put_nowait(None)
        self._thread.join(_DRAIN_S)
        self._given_up.set()
        self._thread.join(_JOIN_S)
        if not self._thread.is_alive():  # an engine must not be freed under a batch that is running
            self._counter.close()

    def _work(self) -> None:
        waiting: _Job | None = None
        try:
            while not self._given_up.is_set():
                first = waiting or self._queue.get()
                if first is None:
                    return
                batch, waiting = self._gather(first)
                self._answer(batch)
                if waiting is None and self._closed.is_set() and self._queue.empty():
                    return
        finally:
            self._refuse(waiting)

    def _refuse(self, job: _Job | None) -> None:
        """Refuse this visit and all that is queued: nobody answers any more."""
        with self._gate:
            self._closed.set()
        with suppress(queue.Empty):
            while True:
                if job is not None:
                    job.answer.set_exception(_stopping())
                job = self._queue.get_nowait()

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
        except Exception as exc:  # noqa: BLE001 - whatever it was, these callers get an answer and the next ones theirs
            failure = exc if isinstance(exc, EngineError) else EngineError("the network failed", got=repr(exc)[:200])
            for job in batch:
                job.answer.set_exception(failure)
            return
        start = 0
        for job in batch:
            end = start + len(job.tensor)
            job.answer.set_result(posteriors[start:end])
            start = end


def _stopping() -> OverloadedError:
    return OverloadedError("the service is stopping")
