"""How a run begins, in which order, and how it ends: what there is time for is delivered, the last status sums up."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.messages import Totals
    from edge_agent.parts import Parts

_LOG = logging.getLogger(__name__)

_YOUNG_OBJECTS = 10_000
"""A count makes hundreds of objects and no circles: the collector looks for some after dozens of counts."""
GOODBYE_S = 5.0
CLOSE_S = 10.0


def begin(parts: Parts) -> None:
    """Start the threads, and say what was found at the start.

    Args:
        parts: Of the agent.
    """
    # What was built so far stays: the garbage collector need not go through it again while counts wait.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
    parts.outbox.start()
    for camera in parts.cameras:
        if camera.live:
            parts.alarms.camera_awaited(camera.name)
    parts.alarms.update_status()
    parts.commands.start()
    parts.publisher.worker.start()
    if parts.uploader is not None:
        parts.uploader.worker.start()
    if parts.report.rescue is not None:
        parts.alarms.event("outbox_rescued", "error", "outbox", str(parts.report.rescue))
    if (taken := parts.probation.untold) is not None:
        parts.alarms.event("bundle_taken_back", "error", taken.digest, taken.words)


def deliver_and_close(
    parts: Parts,
    *,
    asked: Callable[[], bool],
    idle: Callable[[], None],
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> Totals:
    """Deliver what there is time for, say good-bye, close.

    Args:
        parts: Of the agent; no more frames come.
        asked: Whether the agent was asked to stop, which may happen meanwhile.
        idle: Lets a moment pass, in which the agent does what is due.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970 UTC.

    Returns:
        The totals of the run, as in the last status message.
    """
    _drain(parts, asked, idle, clock)
    if parts.uploader is not None:
        parts.uploader.finish(GOODBYE_S)
    totals = parts.report.totals()
    last_words = parts.report.status("offline", (), wall_clock(), totals=totals).wordings()
    if not parts.publisher.finish(last_words, GOODBYE_S):
        _LOG.warning("the broker did not take the last status in %g s", GOODBYE_S)
    if not parts.outbox.close(CLOSE_S):
        _LOG.error("the outbox did not close in %g s", CLOSE_S)
    parts.release()
    left = totals["queued_messages"], totals["queued_images"]
    if any(left):
        _LOG.warning("%s messages and %s images stay in the outbox and are delivered at the next start", *left)
    return totals


def _drain(parts: Parts, asked: Callable[[], bool], idle: Callable[[], None], clock: Callable[[], float]) -> None:
    """Wait until everything is delivered, within the time for it."""
    outbox, pace = parts.outbox, parts.pace
    stored_by_s = clock() + CLOSE_S
    while not outbox.is_stored and outbox.failure is None and clock() < stored_by_s:
        idle()
    stopped = asked()
    if not stopped and not outbox.is_empty:
        _LOG.info("the sources have ended; delivering what waits, for at most %g s", pace.drain_timeout_s)
    deadline_s = clock() + (pace.stop_timeout_s if stopped else pace.drain_timeout_s)
    while clock() < deadline_s and outbox.failure is None and not outbox.is_empty:
        if asked() and outbox.is_stored and not parts.publisher.connected:
            return  # Asked to go, everything is safe on disk, and nobody listens.
        if asked() and not stopped:
            stopped, deadline_s = True, min(deadline_s, clock() + pace.stop_timeout_s)
        idle()
