"""Gathers visits for a recalibration, bounded, and refuses what can only do harm: black frames, one bin repeated.

Nothing here looks at counts. What is refused would make ranges and references of something that is not the robot's
work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from calibration.layouts import is_table_or_dataset, read_visits
from calibration.visits import read_records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray

    from calibration.job.request import Request
    from calibration.observe import Observed
    from calibration.visits import Visit

POLL_S = 0.5
_MAX_BAD_SHARE = 0.2
_MIN_DISTINCT_SHARE = 0.5
_DARK, _BRIGHT, _FLAT = 10.0, 245.0, 5.0
_NOISE = 10.0
"""White noise has 20 times as much variance in its Laplacian as in itself, a picture about one."""
_SAME_LOOK = 0.95
_NEVER_S = 1e12


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as a job sees it, so that tests need not wait.

    Attributes:
        monotonic: Seconds for intervals.
        sleep: Waits.
    """

    monotonic: Callable[[], float]
    sleep: Callable[[float], None]


def gather(folder: Path, request: Request, clock: Clock, *, told: Callable[[int], None]) -> list[Visit]:
    """Wait until a folder holds enough visits, or the time is up.

    Args:
        folder: Of visits, in any layout; only the machine's own may grow.
        request: Says how many, how long and how large.
        clock: Of the job.
        told: How many there are, whenever that changes.

    Returns:
        The newest visits within the bounds, in their order; labels of the request stand in them.

    Raises:
        InputError: The folder is unreadable or malformed.
    """
    deadline = clock.monotonic() + request.collect_s
    found: list[Visit] = []
    while True:
        fresh = read_new(folder, found)
        found += fresh
        if fresh:
            told(len(found))
        if len(found) >= request.max_visits or clock.monotonic() >= deadline:
            break
        clock.sleep(POLL_S)
    chosen = _bounded(found, request)
    return with_labels(chosen, request)


def with_labels(visits: Sequence[Visit], request: Request) -> list[Visit]:
    """Give the labels of a request to visits: each to one visit of its bin, the one nearest in time to the request.

    The other visits of the bin may have seen it before or after a pick.

    Args:
        visits: In their order.
        request: Labels by bin; they win over labels in the visits.

    Returns:
        The visits in their order.
    """
    nearest: dict[str, tuple[float, int]] = {}
    for index, visit in enumerate(visits):
        if visit.bin_id in request.labels:
            away_s = _NEVER_S if visit.captured_at is None else _apart_s(visit.captured_at, request.asked_at)
            # Among equals the newest: where no clock was to be trusted, the order is all there is.
            nearest[visit.bin_id] = min(nearest.get(visit.bin_id, (math.inf, 0)), (away_s, -index))
    labelled = {-index: request.labels[bin_id] for bin_id, (_, index) in nearest.items()}
    return [replace(visit, label=labelled.get(index, visit.label)) for index, visit in enumerate(visits)]


def _apart_s(first: datetime, second: datetime) -> float:
    return abs((first - second).total_seconds())


def read_new(folder: Path, known: Sequence[Visit]) -> list[Visit]:
    """Read the visits that were not there before.

    Args:
        folder: Of visits, in any layout; only the machine's own may grow.
        known: Read earlier.

    Returns:
        The others, in their order.

    Raises:
        InputError: The folder is unreadable or malformed.
    """
    if is_table_or_dataset(folder):
        return [] if known else read_visits(folder)
    return read_records(folder, seen=frozenset(f"{visit.name}.json" for visit in known))


def _bounded(visits: Sequence[Visit], request: Request) -> list[Visit]:
    kept: list[Visit] = []
    size = 0
    for visit in reversed(visits):
        size += sum(frame.stat().st_size if frame.is_file() else 0 for frame in visit.frames)
        if len(kept) == request.max_visits or size > request.max_bytes:
            break
        kept.append(visit)
    return kept[::-1]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Visits that may be learned from.

    Attributes:
        observed: What the current bundle makes of them.
        figures: How many were found, unreadable, showing nothing, look-alikes, and used.
        refusal: Why nothing can be learned, or an empty text.
    """

    observed: Observed
    figures: dict[str, int]
    refusal: str


def sift(observed: Observed, request: Request) -> Gathered:
    """Drop visits that show nothing or show the same thing again, and refuse when that is most of them.

    Args:
        observed: All visits that could be read.
        request: Says how many are needed.

    Returns:
        What is left, or why it is not enough.
    """
    total = len(observed) + len(observed.refused)
    seen = np.flatnonzero(_shows_something(observed))
    fresh = seen[_first_looks(observed, seen)]
    figures = {
        "found": total,
        "unreadable": len(observed.refused),
        "showing_nothing": len(observed) - len(seen),
        "look_alike": len(seen) - len(fresh),
        "used": len(fresh),
    }
    return Gathered(observed.take(fresh), figures, _refusal(figures, request))


def _refusal(figures: dict[str, int], request: Request) -> str:
    total = max(figures["found"], 1)
    bad = figures["unreadable"] + figures["showing_nothing"]
    if figures["found"] < request.min_visits:
        return f"{figures['found']} visits were collected, at least {request.min_visits} are needed"
    if bad > _MAX_BAD_SHARE * total:
        return (
            f"{figures['showing_nothing']} of {total} visits are black, flat or noise and {figures['unreadable']}"
            " unreadable: check the lens, the cable, the light and the exposure"
        )
    if figures["used"] < _MIN_DISTINCT_SHARE * total:
        return f"only {figures['used']} of {total} visits differ from one another: let the robot pass more bins"
    if figures["used"] < request.min_visits:
        return f"{figures['used']} usable visits were collected, at least {request.min_visits} are needed"
    return ""


def _shows_something(observed: Observed) -> NDArray[np.bool_]:
    good = np.ones(len(observed), np.bool_)
    for visit, look in zip(observed.frame_visit, observed.looks, strict=True):
        exposed = _DARK <= look.brightness <= _BRIGHT and look.contrast >= _FLAT
        good[visit] &= exposed and math.expm1(look.sharpness) < _NOISE * look.contrast**2
    return good


def _first_looks(observed: Observed, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions within `rows` of visits whose view no earlier visit had; siblings of one bin correlate at 0.7."""
    first_frame = np.searchsorted(observed.frame_visit, np.arange(len(observed)))
    kept: list[int] = []
    views = np.zeros((0, 0), np.float32)
    for position, row in enumerate(rows):
        view = observed.looks[first_frame[row]].view.ravel()
        view = view / max(float(np.linalg.norm(view)), 1e-6)
        if kept and float((views @ view).max()) >= _SAME_LOOK:
            continue
        kept.append(position)
        views = view[np.newaxis] if len(kept) == 1 else np.vstack([views, view])
    return np.array(kept, np.int64)
