"""What becomes of a visit that is over: one count for the outbox, or the reason why there is none.

The posteriors of its frames are fused and decided here, once; which picture leaves the robot is chosen in `evidence`,
and what the outbox stores is written in `count_message`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bundle.counter import count_from_posterior, fuse
from edge_agent.machine import ClockWatch
from edge_agent.messages import new_event_id
from edge_agent.visits.count_message import Stamp, count_entry, count_message, with_image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bundle.counter import Count, Counter
    from bundle.drift import DriftEvent
    from edge_agent.capture.camera import Camera
    from edge_agent.capture.frames import Frame, FrameMessage
    from edge_agent.commands.visit_requests import VisitRequests
    from edge_agent.health.telemetry import Telemetry
    from edge_agent.messages import CountMessage, Topics
    from edge_agent.outbox.rows import Entry
    from edge_agent.visits.decide import UploadReason
    from edge_agent.visits.drift_watch import DriftWatch
    from edge_agent.visits.evidence import Evidence
    from edge_agent.visits.recorder import Recorder
    from edge_agent.visits.view import Seen, View


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a frame led to.

    Attributes:
        entry: A count for the outbox, when the frame completed a visit.
        rejected: Why a completed visit gave no count.
        drift: What was found about the visits of this camera.
        frozen: The camera repeats its picture and must be restarted.
        rescan: A bin that should be looked at again, because the count is unsure.
    """

    entry: Entry | None = None
    rejected: str | None = None
    drift: DriftEvent | None = None
    frozen: bool = False
    rescan: str | None = None

    @property
    def answers(self) -> bool:
        """The entry ends a command that somebody waits for."""
        return self.entry is not None and (self.entry.kind == "result" or bool(self.entry.companions))


class Completion:
    """Completes visits. Belongs to the frame path's thread.

    Args:
        robot: Name of the robot.
        topics: Of the robot.
        records: Expected quantity per bin.
        evidence: Chooses the picture that leaves the robot.
        telemetry: Takes counts.
        requests: Visits that somebody asks for.
        recorder: Writes visits down while a recalibration runs.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970 UTC.

    Attributes:
        threshold: Least confidence of a confident count; the bundle's own wins when it is higher.
    """

    def __init__(  # noqa: PLR0913 - everything that a count says comes together here
        self,
        *,
        robot: str,
        topics: Topics,
        records: Mapping[str, int],
        evidence: Evidence,
        telemetry: Telemetry,
        requests: VisitRequests,
        recorder: Recorder,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.threshold = 0.0
        self._robot = robot
        self._topics = topics
        self._records = records
        self._evidence = evidence
        self._telemetry = telemetry
        self._requests = requests
        self._recorder = recorder
        self._clock = clock
        self._wall_clock = wall_clock
        self._clock_watch = ClockWatch(clock)

    def complete(
        self,
        view: View,
        camera: Camera,
        seen: Seen,
        last: Frame | None,
        *,
        counter: Counter,
        drift: DriftWatch | None,
    ) -> Outcome:
        """Turn the frames of a visit into one count.

        Args:
            view: Of the camera, its visit closed.
            camera: The camera.
            seen: What the visit gathered.
            last: Its last frame, if that is usable and still there.
            counter: What it was counted with.
            drift: Watches the visits of the counter that counts now; None for a visit of an older one.

        Returns:
            The count, or why there is none.
        """
        if seen.first is None:
            return self._reject(seen)
        count = self._count(counter, seen)
        message = count_message(
            view, seen, seen.first, counter=counter, count=count, records=self._records, stamp=self._stamp()
        )
        picture = self._evidence.choose(
            count, message.verdict, view, seen.best, None if last is None else (camera, last)
        )
        entry = self._entry(message, seen.first, picture)
        self._recorder.put(message, seen.recorded)
        if seen.request is not None:
            entry = replace(entry, companions=(self._requests.answer(seen.request, message, ""),))
        found = None if drift is None else drift.visit(camera.name, count)
        return Outcome(entry=entry, drift=found, rescan=self._rescan(view, camera, message))

    def _reject(self, seen: Seen) -> Outcome:
        """Give a visit up of which no frame can be counted."""
        self._telemetry.count("visits_rejected")
        rejected = ", ".join(sorted(seen.flags)) or "no frame"
        entry = None if seen.request is None else self._requests.answer(seen.request, None, rejected)
        return Outcome(entry=entry, rejected=rejected)

    def _count(self, counter: Counter, seen: Seen) -> Count:
        rule = counter.bundle.manifest.calibration.interval
        threshold = max(counter.threshold, self.threshold)
        count = count_from_posterior(fuse(np.stack(seen.posteriors)), counter.classes, threshold, rule)
        self._telemetry.count("visits")
        self._telemetry.count("unsure", int(not count.confident))
        return count

    def _stamp(self) -> Stamp:
        synchronised = self._clock_watch.quality.synchronised
        return Stamp(new_event_id(self._wall_clock()), self._robot, self._clock(), synchronised)

    def _entry(self, message: CountMessage, first: FrameMessage, picture: tuple[UploadReason, bytes] | None) -> Entry:
        """What the outbox stores: the count, and its picture if one was chosen and the quotas let it go."""
        prefix, image = self._evidence.prefix, None
        if picture is not None and prefix is not None:
            spent = self._evidence.admit(message.bin_id, len(picture[1]))
            if spent is not None:
                message, image = with_image(message, prefix, *picture, spent)
        return count_entry(message, self._topics, first.captured_mono_s, image)

    def _rescan(self, view: View, camera: Camera, message: CountMessage) -> str | None:
        """A bin to look at again: only a robot that is there can, so files never ask."""
        if message.confident or not camera.live:
            return None
        allowed = view.rescans.admit(message.bin_id, view.settings.visit.rescans_per_hour, self._clock())
        return message.bin_id if allowed else None
