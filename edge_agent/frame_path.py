"""A frame's way through the agent, in one function: gate -> preprocess + infer -> fuse -> decide -> outbox.

Everything that decides is a pure function from `gate`, `visit` and `decide`; this file joins them to the counter and
the outbox. State per camera is of fixed size: two small states and at most one picture of an open visit.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from bundle.counter import count_from_posterior, fuse
from bundle.errors import EngineError
from bundle.images import encode_jpeg
from bundle.verdict import judge_record
from edge_agent import decide, visit
from edge_agent.drift_watch import DriftWatch
from edge_agent.gate import GateState, judge
from edge_agent.machine import read_clock
from edge_agent.messages import CountMessage, IntervalField, SidecarMessage, new_event_id, utc
from edge_agent.privacy import blur_outside
from edge_agent.recorder import MAX_FRAMES
from edge_agent.rows import Entry, ImageEntry
from edge_agent.uploads import image_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bundle.counter import Count, Counter
    from bundle.drift import DriftEvent
    from edge_agent.camera import Camera, Frame
    from edge_agent.commands.visit_requests import VisitRequest, VisitRequests
    from edge_agent.config import CameraSection, UploadsSection, VisitSection
    from edge_agent.frames import FrameMessage
    from edge_agent.messages import Topics
    from edge_agent.recorder import Recorder
    from edge_agent.telemetry import Telemetry

_MAX_ORIGINAL_BYTES = 8 << 20
"""Larger photo files are uploaded as a JPEG of their pixels."""
_MAX_BIN_ID = 255
_LIVE_FLAGS = {"repeated", "torn"}
"""A file may hold the same photo twice, and one that ends in a painted floor; the missing end of a file is refused."""


@dataclass(slots=True)
class _Best:
    """The sharpest frame of the open visit so far, kept for a human to look at."""

    sharpness: float
    image_bgr: NDArray[np.uint8]
    encoded: bytes


@dataclass(slots=True)
class _Look:
    """What was found about a frame before its step."""

    flags: set[str]
    usable: bool
    frozen: bool = False
    logits: NDArray[np.float32] | None = None


@dataclass(slots=True)
class _View:
    """What is remembered of one camera.

    Attributes:
        request: Who asked for the open visit.
        counter: What the open visit is counted with from its first frame to its last.
    """

    settings: CameraSection
    trigger: visit.Trigger
    template: str
    gate: GateState = field(default_factory=GateState)
    visit: visit.VisitState = field(default_factory=visit.VisitState)
    request: VisitRequest | None = None
    counter: Counter | None = None
    posteriors: list[NDArray[np.float64]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    first: FrameMessage | None = None
    best: _Best | None = None
    recorded: list[bytes] = field(default_factory=list)
    blind: tuple[str, ...] = ()
    rescans: decide.Rescans = field(default_factory=decide.Rescans)
    look: _Look | None = None


@dataclass(frozen=True, slots=True)
class _Made:
    """What a count was made with."""

    counter: Counter
    request: VisitRequest | None
    frames: int
    flags: set[str]


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


class FramePath:
    """Counts what cameras see. Belongs to one thread.

    Args:
        counter: Preprocessing and engine.
        robot: Name of the robot.
        topics: Of the robot.
        records: Expected quantity per bin.
        uploads: Which images leave the robot.
        upload_prefix: Of object keys; None when there is nowhere to upload to.
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
        telemetry: Telemetry,
        requests: VisitRequests,
        recorder: Recorder,
        cameras: Mapping[str, tuple[CameraSection, Camera]],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._counter = counter
        self._drift = DriftWatch(counter.bundle)
        self._old: list[Counter] = []
        self._threshold = 0.0
        self._requests = requests
        self._recorder = recorder
        self._robot = robot
        self._topics = topics
        self._records = records
        self._uploads = uploads
        self._upload_prefix = upload_prefix
        self._telemetry = telemetry
        self._clock = clock
        self._wall_clock = wall_clock
        self._rng = rng or random.Random()  # noqa: S311 - a sample, not a secret
        self._budget = decide.UploadBudget()
        self._bins = decide.BinTally()
        self._views = {name: _view(settings, camera) for name, (settings, camera) in cameras.items()}

    @property
    def counter(self) -> Counter:
        """What counts from the next visit on."""
        return self._counter

    def swap(self, counter: Counter) -> None:
        """Count with another counter from the next visit on; the old one is closed after the last visit with it.

        Args:
            counter: The new one; closed by `close`.
        """
        self._old.append(self._counter)
        self._counter, self._drift = counter, DriftWatch(counter.bundle)
        self._close_unused()

    def tune(self, threshold: float, uploads: UploadsSection) -> None:
        """Change settings from the next visit on.

        Args:
            threshold: Least confidence of a confident count; the bundle's own wins when it is higher.
            uploads: Which images leave the robot.
        """
        self._threshold, self._uploads = threshold, uploads

    def close(self) -> None:
        """Free every counter."""
        for counter in (self._counter, *self._old):
            counter.close()
        self._old = []

    def _close_unused(self) -> None:
        for counter in [one for one in self._old if all(view.counter is not one for view in self._views.values())]:
            self._old.remove(counter)
            counter.close()

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
        if not visit.is_complete(view.visit, *_rule(view)):
            if look.usable:
                self._keep_best(view, camera, frame)
            return Outcome()
        return self._complete(view, camera, frame if look.usable else None)

    def _look(self, frames: Sequence[tuple[Camera, Frame]]) -> None:
        """Judge frames, and run those that count through the engine, all at once."""
        batches: dict[int, tuple[Counter, list[tuple[_Look, Frame]]]] = {}
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

    def _judge(self, view: _View, camera: Camera, message: FrameMessage) -> _Look:
        """Gate and visit: does this frame count?"""
        verdict, view.gate = judge(message.stats, view.settings.gate, view.gate, message.captured_mono_s)
        view.blind = verdict.blind if camera.live else ()
        if verdict.frozen and camera.live:
            return _Look(set(), usable=False, frozen=True)
        at_s = message.captured_mono_s if message.position_s is None else message.position_s
        self._begin(view, message, at_s)
        if not view.visit.open:
            return _Look(set(), usable=False)
        view.counter = view.counter or self._counter
        flags = set(verdict.flags) - (set() if camera.live else _LIVE_FLAGS)
        if visit.leaves(view.visit, _rule(view)[1]):
            return _Look(flags, usable=False)
        usable = not flags or camera.kind == "folder"
        self._telemetry.count("frames_rejected", int(not usable))
        return _Look(flags, usable=usable)

    def _use(self, view: _View, camera: Camera, frame: Frame, look: _Look) -> None:
        """Add a frame to the open visit."""
        counter = view.counter or self._counter
        logits = counter.logits([frame.network_bgr]) if look.logits is None else look.logits[np.newaxis]
        if counter is self._counter:
            self._drift.frame(camera.name, frame.network_bgr, logits[0])
        view.visit = visit.take(view.visit)
        view.posteriors.append(counter.posteriors_from(logits)[0])
        view.first = view.first or frame.message
        if self._recorder.active and len(view.recorded) < MAX_FRAMES:
            view.recorded.append(camera.encoded(frame) or encode_jpeg(frame.image_bgr, self._uploads.jpeg_quality))

    def _begin(self, view: _View, message: FrameMessage, at_s: float) -> None:
        """Open a visit, if one is due or somebody asks for one."""
        rule = view.settings.visit
        if not view.visit.open:
            view.request = self._requests.take(view.settings.name, message.captured_mono_s)
            if view.request is not None:
                view.visit = visit.open_now(view.visit, rule, at_s=at_s)
                return
        view.visit = visit.begin(
            view.visit, rule, view.trigger, at_s=at_s, motion=message.stats.motion, marker=message.marker
        )

    def blind(self, camera: Camera) -> str:
        """What keeps a camera from seeing anything, empty when it sees.

        Args:
            camera: Which.
        """
        return ", ".join(self._views[camera.name].blind)

    def _keep_best(self, view: _View, camera: Camera, frame: Frame) -> None:
        """Copy the frame when it is the sharpest so far: its memory goes back to the capture process."""
        sharpness = frame.message.stats.sharpness
        if self._upload_prefix is None or (view.best is not None and view.best.sharpness >= sharpness):
            return
        view.best = _Best(sharpness, frame.image_bgr.copy(), camera.encoded(frame))

    def finish(self, camera: Camera) -> Outcome:
        """Close the visit that the end or the loss of a camera has cut short.

        Args:
            camera: Which.

        Returns:
            Its count, if it had a usable frame.
        """
        view = self._views[camera.name]
        return self._complete(view, camera, None) if view.visit.open else Outcome()

    def abandon(self, camera: Camera) -> Outcome:
        """Forget the open visit, after a frame of it has failed.

        Args:
            camera: Whose.

        Returns:
            What to tell whoever asked for the visit.
        """
        self._drift.forget(camera.name)
        view = self._views[camera.name]
        request, view.look = self._clear(view), None
        return Outcome() if request is None else Outcome(entry=self._requests.answer(request, None, "a frame failed"))

    def _clear(self, view: _View) -> VisitRequest | None:
        """Close the open visit.

        Returns:
            The request that it answers.
        """
        request = view.request
        view.posteriors, view.first, view.flags, view.best, view.recorded = [], None, set(), None, []
        view.visit, view.request, view.counter = visit.close(view.visit), None, None
        self._close_unused()
        return request

    def _complete(self, view: _View, camera: Camera, last: Frame | None) -> Outcome:
        """Turn the frames of a visit into one count."""
        posteriors, first, flags, best = view.posteriors, view.first, view.flags, view.best
        counter, recorded = view.counter or self._counter, view.recorded
        request = self._clear(view)
        if first is None:
            self._telemetry.count("visits_rejected")
            rejected = ", ".join(sorted(flags)) or "no frame"
            entry = None if request is None else self._requests.answer(request, None, rejected)
            return Outcome(entry=entry, rejected=rejected)
        rule = counter.bundle.manifest.calibration.interval
        threshold = max(counter.threshold, self._threshold)
        count = count_from_posterior(fuse(np.stack(posteriors)), counter.classes, threshold, rule)
        self._telemetry.count("visits")
        self._telemetry.count("unsure", int(not count.confident))
        image = None
        why = decide.reason_to_upload(count, audit_share=self._uploads.audit_share, draw=self._rng.random())
        if why is not None and self._upload_prefix is not None:
            image = self._image(view, camera, last, best)
        made = _Made(counter, request, len(posteriors), flags)
        message = self._message(view, count, first, made)
        if image is not None and not self._admit(message.bin_id, len(image)):
            image = None
        self._recorder.put(message, recorded)
        entry = self._entry(message, image, why, first)
        if request is not None:
            entry = replace(entry, companions=(self._requests.answer(request, message, ""),))
        drift = self._drift.visit(camera.name, count) if counter is self._counter else None
        return Outcome(entry=entry, drift=drift, rescan=self._rescan(view, camera, message))

    def _rescan(self, view: _View, camera: Camera, message: CountMessage) -> str | None:
        """A bin to look at again: only a robot that is there can, so files never ask."""
        if message.confident or not camera.live:
            return None
        allowed = view.rescans.admit(message.bin_id, view.settings.visit.rescans_per_hour, self._clock())
        return message.bin_id if allowed else None

    def _admit(self, bin_id: str, size: int) -> bool:
        """Ask the quotas for one image."""
        now_s, quota = self._clock(), self._uploads.quota
        fits, budget = decide.admit(self._budget, quota, size=size, now_s=now_s)
        if fits and self._bins.admit(bin_id, quota.images_per_bin_per_day, now_s):
            self._budget = budget
            return True
        self._telemetry.count("images_over_quota")
        return False

    def _image(self, view: _View, camera: Camera, last: Frame | None, best: _Best | None) -> bytes | None:
        """The image to upload: the photo as it was, or the sharpest frame as JPEG."""
        if last is not None and (best is None or last.message.stats.sharpness > best.sharpness):
            encoded, pixels = camera.encoded(last), last.image_bgr
        elif best is not None:
            encoded, pixels = best.encoded, best.image_bgr
        else:
            return None
        if self._uploads.blur_outside:
            return encode_jpeg(blur_outside(pixels, view.settings.region or ()), self._uploads.jpeg_quality)
        if not 0 < len(encoded) <= _MAX_ORIGINAL_BYTES:
            encoded = encode_jpeg(pixels, self._uploads.jpeg_quality)
        return encoded

    def _message(self, view: _View, count: Count, first: FrameMessage, made: _Made) -> CountMessage:
        bin_id = view.template.format(
            stem=PurePath(first.name).stem,
            camera=view.settings.name,
            visit=view.visit.number,
            marker=view.visit.marker or first.marker,
        )[:_MAX_BIN_ID]
        bin_id = bin_id or view.settings.name  # a template of a label that nobody could read
        counter, request = made.counter, made.request
        if request is not None:
            bin_id = request.bin_id
        record = self._records.get(bin_id) if request is None or request.record is None else request.record
        verdict = None
        if record is not None:
            calibration = counter.bundle.manifest.calibration
            verdict = judge_record(np.asarray(count.posterior), counter.classes, record, calibration).word
        interval = count.interval
        return CountMessage(
            event_id=new_event_id(self._wall_clock()),
            robot=self._robot,
            camera=view.settings.name,
            bin_id=bin_id,
            count=count.count,
            at_least=count.at_least,
            label=count.label,
            confidence=round(count.confidence, 6),
            confident=count.confident,
            posterior=tuple(round(share, 6) for share in count.posterior),
            interval=None
            if interval is None
            else IntervalField(
                low=interval.low, high=interval.high, at_least=interval.at_least, coverage=interval.coverage
            ),
            verdict=verdict,
            record=record,
            frames=made.frames,
            flags=tuple(sorted(made.flags)),
            bundle=counter.bundle.label,
            captured_at=utc(first.captured_s),
            latency_ms=round(max(0.0, self._clock() - first.captured_mono_s) * 1e3, 3),
            is_historical=False,
            clock_synchronised=read_clock().synchronised,
            image_key=None,
        )

    def _entry(self, message: CountMessage, image: bytes | None, why: str | None, first: FrameMessage) -> Entry:
        stored = None
        if image is not None and self._upload_prefix is not None:
            key = image_key(self._upload_prefix, image)
            message = message.model_copy(update={"image_key": key})
            sidecar = SidecarMessage(
                image_key=key,
                sha256=PurePath(key).stem,
                bytes=len(image),
                why="audit" if why == "audit" else "unsure",
                count=message,
            )
            stored = ImageEntry(key, image, sidecar.to_bytes())
        return Entry(
            event_id=message.event_id,
            kind="count",
            topic=self._topics.count,
            payload=message.to_bytes(),
            retained_topic=self._topics.bin(message.bin_id),
            image=stored,
            captured_mono_s=first.captured_mono_s,
        )


def _rule(view: _View) -> tuple[VisitSection, visit.Trigger]:
    """When the open visit is complete."""
    rule, request = view.settings.visit, view.request
    if request is None:
        return rule, view.trigger
    if request.frames is None:
        return rule, "photo" if view.trigger == "photo" else "interval"
    return rule.model_copy(update={"frames": request.frames}), "interval"


def _view(settings: CameraSection, camera: Camera) -> _View:
    is_folder = camera.kind == "folder"
    trigger = settings.visit.trigger or ("photo" if is_folder else "interval")
    usual = "{stem}" if is_folder else "{camera}"
    template = settings.bin_id or ("{marker}" if trigger == "marker" else usual)
    return _View(settings=settings, trigger=trigger, template=template)
