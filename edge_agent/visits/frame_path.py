"""A frame's way through the agent, in one function: gate -> preprocess + infer -> fuse -> decide -> outbox.

Everything that decides is a pure function from `gate`, `visit` and `decide`; this file joins them to the counter. What
is remembered of a camera lies in `view`; what becomes of a visit that is over is `completion`'s.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from bundle.errors import EngineError
from edge_agent.capture.gate import judge
from edge_agent.visits import visit
from edge_agent.visits.camera_profile import MovedWatch
from edge_agent.visits.completion import Completion, Outcome
from edge_agent.visits.drift_watch import DriftWatch
from edge_agent.visits.evidence import Evidence
from edge_agent.visits.recorder import MAX_FRAMES
from edge_agent.visits.swap import Counters
from edge_agent.visits.view import Look, view_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from bundle.counter import Counter
    from edge_agent.capture.camera import Camera
    from edge_agent.capture.frames import Frame, FrameMessage
    from edge_agent.commands.visit_requests import VisitRequests
    from edge_agent.config import CameraSection, UploadsSection
    from edge_agent.health.telemetry import Telemetry
    from edge_agent.messages import Topics
    from edge_agent.outbox.quota import Quota
    from edge_agent.visits.recorder import Recorder
    from edge_agent.visits.view import Seen, View

_LIVE_FLAGS = {"repeated", "torn"}
"""A file may hold the same photo twice, and one that ends in a painted floor; the missing end of a file is refused."""


class FramePath:
    """Counts what cameras see. Belongs to one thread.

    Args:
        counter: Preprocessing and engine.
        robot: Name of the robot.
        topics: Of the robot.
        records: Expected quantity per bin.
        uploads: Which images leave the robot.
        upload_prefix: Of object keys; None when there is nowhere to upload to.
        quota: How many images may leave the robot.
        telemetry: Takes counts and latencies.
        requests: Visits that somebody asks for.
        recorder: Writes visits down while a recalibration runs.
        cameras: Their settings and sources, by name.
        rng: Draws the audit sample.
    """

    def __init__(  # noqa: PLR0913 - the joint of the agent: everything that a frame meets comes together here
        self,
        counter: Counter,
        *,
        robot: str,
        topics: Topics,
        records: Mapping[str, int],
        uploads: UploadsSection,
        upload_prefix: str | None,
        quota: Quota,
        telemetry: Telemetry,
        requests: VisitRequests,
        recorder: Recorder,
        cameras: Mapping[str, tuple[CameraSection, Camera]],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._counters = Counters(counter)
        self._drift = DriftWatch(counter.bundle)
        self._moved = MovedWatch(cameras, clock)
        self._requests = requests
        self._recorder = recorder
        self._evidence = Evidence(uploads, upload_prefix, telemetry, quota, rng)
        self._telemetry = telemetry
        self._completion = Completion(
            robot=robot,
            topics=topics,
            records=records,
            evidence=self._evidence,
            telemetry=telemetry,
            requests=requests,
            recorder=recorder,
            clock=clock,
            wall_clock=wall_clock,
        )
        self._clock = clock
        self._views = {name: view_of(settings, camera) for name, (settings, camera) in cameras.items()}

    @property
    def counter(self) -> Counter:
        """What counts from the next visit on."""
        return self._counters.current

    def swap(self, counter: Counter) -> None:
        """Count with another counter from the next visit on; the old one is closed after the last visit with it.

        Args:
            counter: The new one; closed by `close`.
        """
        drift = DriftWatch(counter.bundle)
        self._counters.swap(counter)
        self._drift = drift
        self._close_unused()

    def tune(self, threshold: float, uploads: UploadsSection) -> None:
        """Change settings from the next visit on.

        Args:
            threshold: Least confidence of a confident count; the bundle's own wins when it is higher.
            uploads: Which images leave the robot.
        """
        self._completion.threshold, self._evidence.settings = threshold, uploads

    def close(self) -> None:
        """Free every counter."""
        self._moved.close()
        self._counters.close()

    def _close_unused(self) -> None:
        self._counters.close_unused(view.counter for view in self._views.values())

    def step(self, camera: Camera, frame: Frame, together: Sequence[tuple[Camera, Frame]] = ()) -> Outcome:
        """Take one frame the whole way.

        Args:
            camera: Where it came from.
            frame: The frame; not kept after the call.
            together: Frames of several cameras that are there at once, this one first: they share one call of the
                engine, and the steps of the others find it done.

        Returns:
            What it led to.

        Raises:
            EngineError: The engine failed on it.
        """
        view, started_s = self._views[camera.name], self._clock()
        if view.look is None:
            self._look(together or ((camera, frame),))
        look, view.look = view.look, None
        if look is None or look.frozen or not view.visit.open:
            return Outcome(frozen=look is not None and look.frozen)
        if look.usable:
            self._use(view, camera, frame, look)
            self._telemetry.latency("infer", (self._clock() - started_s) * 1e3)
        view.flags |= look.flags
        if not visit.is_complete(view.visit, *view.rule):
            if look.usable:
                self._evidence.keep_best(view, camera, frame)
            return Outcome()
        return self._complete(view, camera, frame if look.usable else None)

    def _look(self, frames: Sequence[tuple[Camera, Frame]]) -> None:
        """Judge frames, and run those that count through the engine, all at once."""
        batches: dict[int, tuple[Counter, list[tuple[Look, Frame]]]] = {}
        for camera, frame in frames:
            view = self._views[camera.name]
            look = view.look = self._judge(view, camera, frame.message)
            if look.usable and view.counter is not None:
                batches.setdefault(id(view.counter), (view.counter, []))[1].append((look, frame))
        for counter, batch in batches.values():
            try:
                rows = counter.logits([frame.network_bgr for _, frame in batch])
            except EngineError:
                if len(batch) == 1:
                    raise
                continue  # Each tries alone: one camera's frame must not cost another its visit.
            for (look, _), row in zip(batch, rows, strict=True):
                look.logits = row

    def _judge(self, view: View, camera: Camera, message: FrameMessage) -> Look:
        """Gate and visit: does this frame count?"""
        verdict, view.gate = judge(message.stats, view.settings.gate, view.gate, message.captured_mono_s)
        view.blind = verdict.blind if camera.live else ()
        if verdict.frozen and camera.live:
            return Look(set(), usable=False, frozen=True)
        request = None if view.visit.open else self._requests.take(view.settings.name, message.captured_mono_s)
        view.begin(request, message)
        if not view.visit.open:
            return Look(set(), usable=False)
        view.counter = view.counter or self.counter
        flags = set(verdict.flags) - (set() if camera.live else _LIVE_FLAGS)
        if visit.leaves(view.visit, view.rule[1]):
            return Look(flags, usable=False)
        usable = not flags or camera.kind == "folder"
        self._telemetry.count("frames_rejected", int(not usable))
        return Look(flags, usable=usable)

    def _use(self, view: View, camera: Camera, frame: Frame, look: Look) -> None:
        """Add a frame to the open visit."""
        counter = view.counter or self.counter
        logits = counter.logits([frame.network_bgr]) if look.logits is None else look.logits[np.newaxis]
        if counter is self.counter:
            self._drift.frame(camera.name, frame.network_bgr, logits[0])
        view.visit = visit.take(view.visit)
        view.posteriors.append(counter.posteriors_from(logits)[0])
        view.markers += [frame.message.marker] if frame.message.marker else []
        if view.first is None:
            self._moved.visit(camera.name, frame.image_bgr)
            view.first = frame.message
        if self._recorder.active and len(view.recorded) < MAX_FRAMES and not self.moved(camera):
            view.recorded.append(self._evidence.encoded(camera, frame))

    def blind(self, camera: Camera) -> str:
        """What keeps a camera from seeing anything, empty when it sees.

        Args:
            camera: Which.
        """
        return self._views[camera.name].sees_nothing

    def wanted_s(self, camera: Camera) -> float:
        """When the next frame of a camera can lead to something, on its clock; 0 where every frame does.

        Args:
            camera: Which.
        """
        view = self._views[camera.name]
        return visit.wanted_s(view.visit, view.trigger)

    def moved(self, camera: Camera) -> str:
        """By how much a camera has moved since its profile was made, empty when it has not.

        Args:
            camera: Which.
        """
        return self._moved.moved(camera.name)

    def finish(self, camera: Camera) -> Outcome:
        """Close the visit that the end or the loss of a camera has cut short; what it sees next may be another bin.

        Args:
            camera: Which.

        Returns:
            Its count, if it had a usable frame.
        """
        view = self._views[camera.name]
        outcome = self._complete(view, camera, None) if view.visit.open else Outcome()
        view.visit = visit.interrupted(view.visit, view.trigger)
        return outcome

    def abandon(self, camera: Camera) -> Outcome:
        """Forget the open visit, after a frame of it has failed.

        Args:
            camera: Whose.

        Returns:
            What to tell whoever asked for the visit.
        """
        self._drift.forget(camera.name)
        view = self._views[camera.name]
        request, view.look = self._close(view).request, None
        return Outcome() if request is None else Outcome(entry=self._requests.answer(request, None, "a frame failed"))

    def _close(self, view: View) -> Seen:
        """End the open visit; a counter that was swapped out goes with the last visit that it counted."""
        seen = view.close()
        self._close_unused()
        return seen

    def _complete(self, view: View, camera: Camera, last: Frame | None) -> Outcome:
        """Turn the frames of a visit into one count."""
        seen = self._close(view)
        counter = seen.counter or self.counter
        drift = self._drift if counter is self.counter else None
        return self._completion.complete(view, camera, seen, last, counter=counter, drift=drift)
