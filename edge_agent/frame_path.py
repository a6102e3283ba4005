"""A frame's way through the agent, in one function: gate -> preprocess + infer -> fuse -> decide -> outbox.

Everything that decides is a pure function from `gate`, `visit` and `decide`; this file joins them to the counter and
the outbox. State per camera is of fixed size: two small states and at most one picture of an open visit.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from bundle.counter import count_from_posterior, fuse
from bundle.images import encode_jpeg
from bundle.verdict import judge_record
from edge_agent import decide, visit
from edge_agent.gate import GateState, judge
from edge_agent.machine import read_clock
from edge_agent.messages import CountMessage, IntervalField, SidecarMessage, new_event_id, utc
from edge_agent.rows import Entry, ImageEntry
from edge_agent.uploads import image_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from bundle.counter import Count, Counter
    from edge_agent.camera import Camera, Frame
    from edge_agent.config import CameraSection, UploadsSection
    from edge_agent.frames import FrameMessage
    from edge_agent.messages import Topics
    from edge_agent.telemetry import Telemetry

_MAX_ORIGINAL_BYTES = 8 << 20
"""Larger photo files are uploaded as a JPEG of their pixels."""
_MAX_BIN_ID = 255


@dataclass(slots=True)
class _Best:
    """The sharpest frame of the open visit so far, kept for a human to look at."""

    sharpness: float
    image_bgr: NDArray[np.uint8]
    encoded: bytes


@dataclass(slots=True)
class _View:
    """What is remembered of one camera."""

    settings: CameraSection
    trigger: visit.Trigger
    template: str
    gate: GateState = field(default_factory=GateState)
    visit: visit.VisitState = field(default_factory=visit.VisitState)
    posteriors: list[NDArray[np.float64]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    first: FrameMessage | None = None
    best: _Best | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a frame led to.

    Attributes:
        entry: A count for the outbox, when the frame completed a visit.
        rejected: Why a completed visit gave no count.
        frozen: The camera repeats its picture and must be restarted.
    """

    entry: Entry | None = None
    rejected: str | None = None
    frozen: bool = False


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
        cameras: Mapping[str, tuple[CameraSection, Camera]],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._counter = counter
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
        self._views = {name: _view(settings, camera) for name, (settings, camera) in cameras.items()}

    def step(self, camera: Camera, frame: Frame) -> Outcome:
        """Take one frame the whole way.

        Args:
            camera: Where it came from.
            frame: The frame; not kept after the call.

        Returns:
            What it led to.

        Raises:
            EngineError: The engine failed on it.
        """
        view = self._views[camera.name]
        message, started_s = frame.message, self._clock()
        verdict, view.gate = judge(message.stats, view.settings.gate, view.gate, message.captured_mono_s)
        if verdict.frozen and camera.live:
            return Outcome(frozen=True)
        at_s = message.captured_mono_s if message.position_s is None else message.position_s
        view.visit = visit.begin(view.visit, view.settings.visit, view.trigger, at_s=at_s, motion=message.stats.motion)
        if not view.visit.open:
            return Outcome()
        flags = set(verdict.flags) - (set() if camera.live else {"repeated"})
        usable = not flags or camera.kind == "folder"
        if not usable:
            self._telemetry.count("frames_rejected")
        else:
            posterior = self._counter.posteriors([frame.network_bgr])[0]
            self._telemetry.latency("infer", (self._clock() - started_s) * 1e3)
            view.visit = visit.take(view.visit)
            view.posteriors.append(posterior)
            view.first = view.first or message
        view.flags |= flags
        if not visit.is_complete(view.visit, view.settings.visit, view.trigger):
            if usable:
                self._keep_best(view, camera, frame)
            return Outcome()
        return self._complete(view, camera, frame if usable else None)

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

    def abandon(self, camera: Camera) -> None:
        """Forget the open visit, after a frame of it has failed.

        Args:
            camera: Whose.
        """
        view = self._views[camera.name]
        view.posteriors, view.first, view.flags, view.best = [], None, set(), None
        view.visit = visit.close(view.visit)

    def _complete(self, view: _View, camera: Camera, last: Frame | None) -> Outcome:
        """Turn the frames of a visit into one count."""
        posteriors, first, flags, best = view.posteriors, view.first, view.flags, view.best
        self.abandon(camera)
        if first is None:
            self._telemetry.count("visits_rejected")
            return Outcome(rejected=", ".join(sorted(flags)) or "no frame")
        calibration = self._counter.bundle.manifest.calibration
        posterior = fuse(np.stack(posteriors))
        count = count_from_posterior(posterior, self._counter.classes, self._counter.threshold, calibration.interval)
        self._telemetry.count("visits")
        self._telemetry.count("unsure", int(not count.confident))
        image = None
        why = decide.reason_to_upload(count, audit_share=self._uploads.audit_share, draw=self._rng.random())
        if why is not None and self._upload_prefix is not None:
            image = self._image(camera, last, best)
        message = self._message(view, count, first, frames=len(posteriors), flags=flags)
        return Outcome(entry=self._entry(message, image, why, first))

    def _image(self, camera: Camera, last: Frame | None, best: _Best | None) -> bytes | None:
        """The image to upload, if the quota allows: the photo as it was, or the sharpest frame as JPEG."""
        if last is not None and (best is None or last.message.stats.sharpness > best.sharpness):
            encoded, pixels = camera.encoded(last), last.image_bgr
        elif best is not None:
            encoded, pixels = best.encoded, best.image_bgr
        else:
            return None
        if not 0 < len(encoded) <= _MAX_ORIGINAL_BYTES:
            encoded = encode_jpeg(pixels, self._uploads.jpeg_quality)
        fits, self._budget = decide.admit(self._budget, self._uploads.quota, size=len(encoded), now_s=self._clock())
        if not fits:
            self._telemetry.count("images_over_quota")
            return None
        return encoded

    def _message(self, view: _View, count: Count, first: FrameMessage, *, frames: int, flags: set[str]) -> CountMessage:
        bin_id = view.template.format(
            stem=PurePath(first.name).stem, camera=view.settings.name, visit=view.visit.number
        )[:_MAX_BIN_ID]
        record = self._records.get(bin_id)
        verdict = None
        if record is not None:
            calibration = self._counter.bundle.manifest.calibration
            verdict = judge_record(np.asarray(count.posterior), self._counter.classes, record, calibration).word
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
            frames=frames,
            flags=tuple(sorted(flags)),
            bundle=self._counter.bundle.label,
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


def _view(settings: CameraSection, camera: Camera) -> _View:
    is_folder = camera.kind == "folder"
    return _View(
        settings=settings,
        trigger=settings.visit.trigger or ("photo" if is_folder else "interval"),
        template=settings.bin_id or ("{stem}" if is_folder else "{camera}"),
    )
