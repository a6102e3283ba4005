"""From visits to a candidate that has passed every check, or to the reason why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bundle import images
from bundle.errors import InputError
from calibration.camera import compare_views
from calibration.job.checks import check_candidate, check_labels, describe
from calibration.job.collect import gather, sift
from calibration.job.context import CACHE_NAME, CANDIDATE
from calibration.job.fit import Material, make_candidate
from calibration.job.journal import Version
from calibration.refit import MIN_LABELLED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from bundle.camera import CameraProfile
    from bundle.verify import Bundle
    from calibration.job.context import Job
    from calibration.job.request import Request
    from calibration.observe import Observed
    from calibration.visits import Visit

_VIEWS = 24


def version(bundle: Bundle) -> Version:
    """Describe a bundle for the record.

    Args:
        bundle: Verified.

    Returns:
        Its digest, name and calibration.
    """
    return Version(digest=bundle.digest, label=bundle.label, calibration=bundle.manifest.calibration)


def learn(job: Job, current: Bundle) -> str:
    """Collect, fit and check.

    Args:
        job: In its first state.
        current: The active bundle.

    Returns:
        Why nothing may be activated, or an empty text: the candidate then lies in the job's folder.

    Raises:
        BintallyError: Something cannot be used; its text is the reason.
        OSError: The disk refused.
    """
    request = job.journal.request
    job.note(checks=())
    job.enter("collecting", "waiting for visits" if request.collect_s else "reading the visits")
    visits = gather(job.around.visits, request, job.around.clock, told=lambda count: job.tell(f"{count} visits"))
    learned = visits[: len(visits) - _set_aside(request, len(visits))]
    if not learned:
        return f"no visits were collected, at least {request.min_visits} are needed"
    moved = _camera_moved(job.around.profile, learned)
    if moved:
        return moved
    before, role = job.observe(current, learned)
    gathered = sift(before, request)
    job.note(collected=gathered.figures, last_visit=learned[-1].name)
    if gathered.refusal:
        return gathered.refusal
    data = gathered.observed.labelled(current.manifest.count_classes)
    if data is not None and len(data) >= MIN_LABELLED:
        job.note(checks=tuple(check_labels(data)))
        if refusal := _failures(job):
            return refusal
    job.enter("fitting", f"{len(gathered.observed)} visits, {0 if data is None else len(data)} of them labelled")
    return _fit_and_check(job, current, gathered.observed, role)


def _fit_and_check(job: Job, current: Bundle, observed: Observed, role: str) -> str:
    request, promise = job.journal.request, current.manifest.calibration.promise
    wish = request.wish(None if promise is None else promise.risk)
    cache = job.folder.with_name(CACHE_NAME)
    material = Material(current, role, observed, lambda row: job.pictures(current, observed.visits[row]), cache)
    candidate = make_candidate(
        material,
        wish,
        job.folder / CANDIDATE,
        ranges=request.ranges,
        now=job.around.now(),
        told=lambda words: job.tell(words, 0.1),
    )
    job.note(after=version(candidate.bundle), did=candidate.did, did_not=candidate.did_not)
    job.enter("checking", "; ".join(candidate.did))
    checks = check_candidate(candidate, current, observed, wish)
    job.note(checks=(*job.journal.checks, *checks), band=describe(candidate, observed))
    return _failures(job)


def _failures(job: Job) -> str:
    return "; ".join(f"{check.name}: {check.words}" for check in job.journal.checks if not check.passed)


def _set_aside(request: Request, found: int) -> int:
    """Visits of a folder that does not grow that are kept for watching."""
    if request.collect_s or request.watch_s:
        return 0
    return max(0, min(request.watch_visits, found - request.min_visits, found // 4))


def _camera_moved(profile: CameraProfile | None, visits: Sequence[Visit]) -> str:
    if profile is None or profile.view is None:
        return ""
    frames = _readable(visits[-_VIEWS:])
    comparison = compare_views(profile, frames) if frames else None
    if comparison is None or not comparison.moved:
        return ""
    x, y = comparison.motion.shift_px
    return f"camera {profile.camera} has moved by {x:+.0f},{y:+.0f} px: run `bintally calibrate camera` first"


def _readable(visits: Sequence[Visit]) -> list[NDArray[np.uint8]]:
    found = []
    for visit in visits:
        try:
            found.append(images.read(visit.frames[0]))
        except InputError:  # counted as unreadable when the visits are sifted
            continue
    return found
