"""Visits written down for a recalibration job, in the format of `bundle.visits`, while one runs and only then.

The frame path hands frames over and never waits: a thread writes them, and what it cannot keep up with is left out.
Each job has a folder of its own, named by its id: it sees the visits that were counted while it ran, also before the
agent was started anew, and no others. The folder is bounded: see `VisitFolder`.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
from typing import TYPE_CHECKING

from bundle.visits import VisitRecord
from edge_agent.backoff import Backoff
from edge_agent.machine import read_clock
from edge_agent.threads import Worker
from edge_agent.visits.visit_folder import VisitFolder

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.messages import CountMessage

_LOG = logging.getLogger(__name__)

MAX_FRAMES = 4
_MAX_WAITING = 16
_WAIT_S = 0.25
_PNG_START = b"\x89PNG"


class Recorder:
    """Writes visits into the folder of a job.

    Args:
        root: Holds the folder of the job; exists while one runs.
        max_bytes: Of that folder.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.written = 0
        self.left_out = 0
        self._root = root
        self._job: Path | None = None
        self._max_bytes = max_bytes
        self._waiting: queue.Queue[tuple[Path, VisitRecord, list[bytes]]] = queue.Queue(_MAX_WAITING)
        self._visits: VisitFolder | None = None
        self._over = False
        self._folders = threading.Lock()
        self._stop = threading.Event()
        self.worker = Worker("recorder", self._work, backoff=Backoff(1.0, 30.0), stop=self._stop)

    @property
    def active(self) -> bool:
        """A job wants visits."""
        return self._job is not None

    def begin(self, job: str) -> Path:
        """Write visits for a job from now on.

        Args:
            job: Its id. What was written for it before the agent was started anew stays; that of others goes.

        Returns:
            The folder of its visits.

        Raises:
            OSError: The disk refused.
        """
        folder = self._root / job
        with self._folders:
            self._over = False
            self._root.mkdir(parents=True, exist_ok=True)
            for other in self._root.iterdir():
                if other.name != job:
                    _remove(other)
            self._visits = VisitFolder(folder, self._max_bytes)
            self._job = folder
        return folder

    def end(self) -> None:
        """Write no more; the thread removes what was written."""
        self._job = None
        self._over = True

    def put(self, message: CountMessage, frames: list[bytes]) -> None:
        """Hand a visit over; the frame path's side.

        Args:
            message: Its count.
            frames: JPEG or PNG files, those that were counted.
        """
        job = self._job
        if job is None or not frames:
            return
        names = tuple(
            f"{message.event_id}-{number}.{'png' if data.startswith(_PNG_START) else 'jpg'}"
            for number, data in enumerate(frames)
        )
        sure = read_clock().synchronised is not False
        record = VisitRecord(
            visit=message.event_id,
            bin_id=message.bin_id,
            frames=names,
            captured_at=message.captured_at if sure else None,
        )
        try:
            self._waiting.put_nowait((job, record, frames))
        except queue.Full:
            self.left_out += 1

    def finish(self, timeout_s: float) -> bool:
        """End the thread; the folder stays for the next start.

        Args:
            timeout_s: How long that may take.

        Returns:
            Whether it ended.
        """
        self._job = None
        self._stop.set()
        return self.worker.join(timeout_s)

    def _work(self) -> None:
        while not self._stop.is_set():
            self.worker.tick()
            try:
                job, record, frames = self._waiting.get(timeout=_WAIT_S)
            except queue.Empty:
                self._sweep()
                continue
            with self._folders:
                if job == self._job and self._visits is not None:  # not of a job that has ended since
                    self._write(self._visits, record, frames)

    def _write(self, visits: VisitFolder, record: VisitRecord, frames: list[bytes]) -> None:
        try:
            visits.write(record, frames)
        except OSError as exc:
            self.left_out += 1
            _LOG.warning("a visit could not be written for the recalibration: %s", exc.strerror)
            return
        self.written += 1

    def _sweep(self) -> None:
        # Held, because the next job may begin while the visits of the last one, thousands of files, are removed.
        with self._folders:
            if self._over and not self.active:
                self._over = False
                _remove(self._root)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
