"""The switch to the candidate, the watch over it, and the way back.

The store switches in one rename (bundle.store), the journal in another, intent before effect: "activating" is written
before the switch and "reverting" before the way back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bundle.errors import BintallyError, BundleError
from bundle.probation import taken_back
from calibration.job.collect import POLL_S, read_new
from calibration.job.context import CANDIDATE
from calibration.job.watch import MIN_WATCHED, reason_to_revert, watch

if TYPE_CHECKING:
    from calibration.job.context import Job
    from calibration.visits import Visit


def finish(job: Job) -> None:
    """Switch and watch. A restart after the switch has begun comes back to this function.

    Args:
        job: With a candidate that passed.

    Raises:
        BundleError: The store is damaged.
        OSError: The record cannot be written.
    """
    after = job.journal.after
    if after is None:
        job.end("failed", "the job's record names no candidate")
        return
    if (taken := taken_back(job.around.store, after.digest)) is not None:
        job.end("reverted", taken.words)
        return
    if job.journal.state != "watching":
        job.enter("activating", after.label)
        if not _switch(job, after.digest):
            return
        job.enter("watching", f"{after.label} is active", last_visit=_newest_visit(job))
    if job.store.current().digest != after.digest:
        job.end("reverted", "another bundle was activated meanwhile")
        return
    _watch(job)


def _switch(job: Job, digest: str) -> bool:
    try:
        if job.store.current().digest != digest:
            job.store.install(job.folder / CANDIDATE)
            job.store.activate(digest)
    except (BundleError, OSError) as exc:
        job.end("failed", f"the candidate could not be activated: {exc}")
        return False
    return True


def _newest_visit(job: Job) -> str:
    """Visits after this one are watched: in a folder that grows, those that the candidate itself counts."""
    if not job.journal.request.watch_s:
        return job.journal.last_visit
    try:
        known = read_new(job.around.visits, [])
    except BintallyError:  # said when the visits are watched
        known = []
    return known[-1].name if known else job.journal.last_visit


def _watch(job: Job) -> None:
    request, band = job.journal.request, job.journal.band
    previous = job.store.previous()
    if request.watch_visits == 0 or band is None or previous is None:
        job.end("activated", "not watched")
        return
    current = job.store.current()
    try:
        visits = _later_visits(job)
        if len(visits) < MIN_WATCHED:
            job.end("activated", f"not watched: only {len(visits)} visits came")
            return
        watched = watch(current, job.observe(current, visits)[0], job.observe(previous, visits)[0])
    except BintallyError as exc:
        begin_revert(job, f"the visits after the activation cannot be counted: {exc}")
        return
    job.note(watched=watched)
    promise = current.manifest.calibration.promise
    reason = reason_to_revert(band, watched, None if promise is None else promise.risk)
    if reason:
        begin_revert(job, reason)
    else:
        job.end("activated", f"as predicted on {watched.visits} visits: {watched.unsure} unsure")


def _later_visits(job: Job) -> list[Visit]:
    request, clock = job.journal.request, job.around.clock
    deadline = clock.monotonic() + request.watch_s
    known: list[Visit] = []
    while True:
        known += read_new(job.around.visits, known)
        names = [visit.name for visit in known]
        start = names.index(job.journal.last_visit) + 1 if job.journal.last_visit in names else 0
        later = known[start : start + request.watch_visits]
        if len(later) >= request.watch_visits or clock.monotonic() >= deadline:
            return later
        job.tell(f"{len(later)} of {request.watch_visits} visits watched", 0.1 * len(later) / request.watch_visits)
        clock.sleep(POLL_S)


def begin_revert(job: Job, reason: str) -> None:
    """Write the intent, then bring the old bundle back.

    Args:
        job: Whose candidate is active.
        reason: Why it must go.

    Raises:
        OSError: The record cannot be written.
    """
    job.enter("reverting", reason, reason=reason)
    revert(job)


def revert(job: Job) -> None:
    """Bring the old bundle back. A restart after the intent was written comes back to this function.

    Args:
        job: In the state "reverting".

    Raises:
        OSError: The record cannot be written.
    """
    after, before = job.journal.after, job.journal.before
    try:
        if after is not None and before is not None and job.store.current().digest == after.digest:
            job.store.rollback(forget=True)
    except (BundleError, OSError) as exc:
        job.end("failed", f"{job.journal.reason}; and the old bundle could not be brought back: {exc}")
        return
    job.end("reverted", job.journal.reason)
