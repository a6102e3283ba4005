"""The job as a state machine over its record: it can be killed at any step, and goes on or starts the step anew.

At every moment the robot has the old or the new bundle, the record knows which was meant, and the job ends in exactly
one result, however often it was killed.
"""

from __future__ import annotations

import fcntl
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bundle.durable import fsync_dir
from bundle.errors import BintallyError, ConfigError
from calibration.job.context import CACHE_NAME, CANDIDATE, JOBS_NAME, Job
from calibration.job.journal import JOURNAL_NAME, MAX_ATTEMPTS, Journal, read_journal, write_journal
from calibration.job.learn import learn, version
from calibration.job.switch import begin_revert, finish, revert

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from calibration.job.collect import Clock
    from calibration.job.context import Surroundings
    from calibration.job.request import Request

_KEPT_JOBS = 50
_LOCK_WAIT_S = 5.0
"""A job that was killed while it started a child leaves the lock to it until the child has become its program."""
_LOCK_POLL_S = 0.05


def recalibrate(around: Surroundings, request: Request) -> Journal:
    """Carry out a request, or go on with it where it was killed; a request that is over is only reported.

    Args:
        around: Where the job works.
        request: What is asked. For an id that is known already, what was asked first counts.

    Returns:
        The record of the job, which is over.

    Raises:
        ConfigError: Another recalibration is running on this store.
        InputError: The job's record is damaged.
        OSError: The record cannot be written.
    """
    folder = around.job_folder(request.job_id)
    with _alone(folder.parent, around.clock):
        known = read_journal(folder)
        if known is None:
            _sweep_old(folder.parent)
            folder.mkdir(parents=True, exist_ok=True)
            fsync_dir(folder.parent)
        job = Job(around, known or Journal(request=request))
        if not job.journal.is_over:
            _go_on(job)
        return job.journal


def unfinished(store: Path) -> list[str]:
    """Jobs that were killed and want to go on.

    Args:
        store: Root of the robot's bundle store.

    Returns:
        Their ids, oldest first.

    Raises:
        InputError: A record is damaged.
    """
    records = sorted((store / JOBS_NAME).glob(f"*/{JOURNAL_NAME}"), key=lambda file: file.stat().st_mtime)
    journals = (read_journal(file.parent) for file in records)
    return [journal.request.job_id for journal in journals if journal is not None and not journal.is_over]


@contextmanager
def _alone(jobs: Path, clock: Clock) -> Iterator[None]:
    """One recalibration per store: the lock dies with its process, and with a child that this was about to start."""
    jobs.mkdir(parents=True, exist_ok=True)
    deadline_s = clock.monotonic() + _LOCK_WAIT_S
    with (jobs / ".lock").open("w") as lock:
        while not _locked(lock):
            if clock.monotonic() >= deadline_s:
                raise ConfigError("another recalibration is running on this robot", fix="Wait for its result.")
            clock.sleep(_LOCK_POLL_S)
        yield


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep_old(jobs: Path) -> None:
    found = (folder for folder in jobs.iterdir() if folder.is_dir() and folder.name != CACHE_NAME)
    folders = sorted(found, key=lambda one: one.stat().st_mtime)
    for folder in folders[: max(0, len(folders) - _KEPT_JOBS + 1)]:
        shutil.rmtree(folder, ignore_errors=True)


def _go_on(job: Job) -> None:
    state, attempts = job.journal.state, job.journal.attempts + 1
    job.note(attempts=attempts)
    write_journal(job.folder, job.journal)
    often = f"it was interrupted {attempts - 1} times" if attempts > MAX_ATTEMPTS else ""
    try:
        if state == "reverting":
            revert(job)
        elif state == "watching" and often:
            begin_revert(job, often)
        elif state in {"activating", "watching"}:
            finish(job)
        elif often:
            job.end("failed", often)
        else:
            _from_the_start(job)
    except BintallyError as exc:  # the store itself is damaged: nothing can be switched either way
        job.end("failed", str(exc))


def _from_the_start(job: Job) -> None:
    """Up to the switch, whatever stops the job leaves the store as it was."""
    shutil.rmtree(job.folder / CANDIDATE, ignore_errors=True)
    try:
        job.enter("accepted", f"asked by {job.journal.request.actor}")
        current = job.store.current()
        job.note(before=version(current))
        refusal = learn(job, current)
    except BintallyError as exc:
        job.end("refused", str(exc))
    except OSError as exc:
        job.end("failed", f"the disk refused: {exc}")
    else:
        if refusal:
            job.end("refused", refusal)
        else:
            finish(job)
