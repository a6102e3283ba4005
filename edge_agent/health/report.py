"""What the agent says of itself: status, telemetry and the totals of a run, gathered from its parts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edge_agent.delivery.link import VERSION_NAMES
from edge_agent.machine import Heat, disk_free_bytes, read_clock, read_heat, rss_bytes
from edge_agent.messages import StageLatency, StatusMessage, TelemetryMessage, utc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from bundle.counter import Counter
    from edge_agent.capture.camera import Camera
    from edge_agent.delivery.publisher import Publisher
    from edge_agent.delivery.uploads import Uploader
    from edge_agent.health.telemetry import Telemetry
    from edge_agent.messages import State, Totals
    from edge_agent.outbox.outbox import Outbox
    from edge_agent.outbox.rescue import Rescue


_LOSSES = (
    "images_over_quota",
    "counts_not_stored",
    "events_not_stored",
    "steps_failed",
    "commands_not_stored",
    "answers_not_stored",
)
_REJECTIONS = ("frames_rejected", "visits_rejected", "camera_losses", "commands_refused", "commands_repeated")


class Report:
    """Builds the messages about the agent.

    Args:
        robot: Name of the robot.
        version: Of bintally.
        counter: For the bundle's and the engine's name.
        cameras: For their drops.
        outbox: For its numbers.
        publisher: For what was delivered.
        uploader: For what was uploaded.
        telemetry: Counters and latencies.
        state_path: Whose disk is watched.
        rescue: What happened to a damaged outbox at the start.
        clock: Monotonic seconds.

    Attributes:
        heat: The sensors, as of the last telemetry message.
        settings: What commands have set.
    """

    def __init__(  # noqa: PLR0913 - it reports on every part
        self,
        *,
        robot: str,
        version: str,
        counter: Counter,
        cameras: Sequence[Camera],
        outbox: Outbox,
        publisher: Publisher,
        uploader: Uploader | None,
        telemetry: Telemetry,
        state_path: Path,
        rescue: Rescue | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rescue = rescue
        self.settings: Callable[[], dict[str, JsonValue]] = dict
        self._robot = robot
        self._version = version
        self._counter = counter
        self._cameras = cameras
        self._outbox = outbox
        self._publisher = publisher
        self._uploader = uploader
        self._telemetry = telemetry
        self._state_path = state_path
        self._clock = clock
        self._started_s = self._window_s = clock()
        self._window_frames = 0
        self.heat = Heat(None, None, None)

    def swap(self, counter: Counter) -> None:
        """Report on another counter from now on.

        Args:
            counter: The new one.
        """
        self._counter = counter

    @property
    def engine_name(self) -> str:
        """What executes the bundle."""
        return self._counter.engine.name

    def status(
        self, state: State, reasons: tuple[str, ...], now_s: float, *, totals: Totals | None = None
    ) -> StatusMessage:
        """Build the retained status.

        Args:
            state: What the agent does.
            reasons: Why it is degraded.
            now_s: Wall clock.
            totals: Of the run, in its last message.

        Returns:
            The message.
        """
        return StatusMessage(
            robot=self._robot,
            state=state,
            reasons=reasons,
            bundle=self._counter.bundle.label,
            engine=self._counter.engine.name,
            promise=self._counter.promise,
            count_classes=self._counter.classes,
            version=self._version,
            at=utc(now_s),
            settings=self.settings(),
            totals=totals,
        )

    def totals(self) -> Totals:
        """Sum the run up.

        Returns:
            Numbers since the start of the process; `queued` is what waits now.
        """
        tally, numbers = self._telemetry.tally(), self._outbox.numbers()
        p50_ms, p99_ms = self._telemetry.whole("total")
        return {
            "frames": tally.get("frames", 0),
            "photos_refused": tally.get("photos_refused", 0),
            "accepted": numbers.accepted_counts,
            "delivered": self._publisher.counts_delivered,
            "refused": self._publisher.counts_refused,
            "unsure": tally.get("unsure", 0),
            "uploaded": 0 if self._uploader is None else self._uploader.uploaded,
            "queued_messages": max(0, numbers.messages),
            "queued_images": max(0, numbers.images),
            "p50_ms": p50_ms,
            "p99_ms": p99_ms,
        }

    def telemetry(self, now_s: float) -> TelemetryMessage:
        """Build a telemetry message and begin the next interval.

        Args:
            now_s: Wall clock.

        Returns:
            The message.
        """
        tally, numbers = self._telemetry.tally(), self._outbox.numbers()
        frames, clock_s = tally.get("frames", 0), self._clock()
        elapsed_s = max(1e-3, clock_s - self._window_s)
        fps = (frames - self._window_frames) / elapsed_s
        self._window_s, self._window_frames = clock_s, frames
        self.heat, clock_quality = read_heat(), read_clock()
        return TelemetryMessage(
            robot=self._robot,
            at=utc(now_s),
            uptime_s=round(clock_s - self._started_s, 1),
            fps=round(fps, 2),
            totals=self.totals(),
            queue={
                "messages": max(0, numbers.messages),
                "images": max(0, numbers.images),
                "image_bytes": max(0, numbers.image_bytes),
                "database_bytes": numbers.database_bytes,
                "oldest_s": round(numbers.oldest_s, 1),
            },
            drops=self._drops(),
            latency={
                stage: StageLatency(p50_ms=p50, p99_ms=p99)
                for stage, (p50, p99) in self._telemetry.take_window().items()
            },
            disk_free_bytes=disk_free_bytes(self._state_path),
            rss_bytes=rss_bytes(),
            temperature_c=self.heat.temperature_c,
            throttled=self.heat.throttled,
            over_current_events=self.heat.over_current_events,
            clock_synchronised=clock_quality.synchronised,
            clock_max_error_ms=clock_quality.max_error_ms,
            mqtt_version=None if self._publisher.version is None else VERSION_NAMES[self._publisher.version],
        )

    def losses(self) -> dict[str, int]:
        """Count what was dropped and should not have been, since the outbox was first made."""
        tally = self._telemetry.tally()
        return {**self._outbox.numbers().drops, **{name: tally[name] for name in _LOSSES if tally.get(name)}}

    def _drops(self) -> dict[str, int]:
        tally = self._telemetry.tally()
        frames = sum(camera.dropped for camera in self._cameras)
        found = {name: tally[name] for name in _REJECTIONS if tally.get(name)}
        others = {"frames_dropped": frames, "reports_refused": self._publisher.direct.refusals}
        return {**self.losses(), **found, **{name: number for name, number in others.items() if number}}
