"""What an agent is made of, and how often and how long it does what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.capture.camera import Camera
    from edge_agent.commands.service import Commands
    from edge_agent.delivery.publisher import Publisher
    from edge_agent.delivery.uploads import Uploader
    from edge_agent.health.alarms import Alarms
    from edge_agent.health.prometheus import Endpoint
    from edge_agent.health.report import Report
    from edge_agent.health.telemetry import Telemetry
    from edge_agent.outbox.outbox import Outbox
    from edge_agent.probation import Probation
    from edge_agent.visits.frame_path import FramePath


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long.

    Attributes:
        telemetry_interval_s: Between telemetry messages.
        drain_timeout_s: For delivery after the sources' end.
        stop_timeout_s: For delivery after a request to stop.
    """

    telemetry_interval_s: float
    drain_timeout_s: float
    stop_timeout_s: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What an agent is made of; `edge_agent.assemble` puts it together.

    Attributes:
        cameras: At least one.
        path: Frames to counts.
        outbox: Not yet started.
        publisher: Not yet started.
        uploader: Not yet started; None when images go nowhere.
        telemetry: Counters and latencies.
        report: Builds status and telemetry messages.
        alarms: Says what is wrong.
        commands: Not yet started.
        probation: Watches over a bundle that is new here.
        pace: How often and how long.
        endpoint: The page for Prometheus, if wanted.
        release: Called at the very end.
    """

    cameras: Sequence[Camera]
    path: FramePath
    outbox: Outbox
    publisher: Publisher
    uploader: Uploader | None
    telemetry: Telemetry
    report: Report
    alarms: Alarms
    commands: Commands
    probation: Probation
    pace: Pace
    endpoint: Endpoint | None = None
    release: Callable[[], None] = lambda: None
