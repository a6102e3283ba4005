"""Saying what is wrong: events for what happened, the retained status for what is the case.

An event is said once when something begins, not again for every failed attempt; what happens to single frames and
photos is said so often and then held back, as telemetry counts it all. The status is published when its
reasons change.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from edge_agent.health.certificates import CertificateWatch
from edge_agent.health.repeats import Repeats
from edge_agent.machine import read_clock
from edge_agent.messages import EventMessage, new_event_id, utc
from edge_agent.outbox.rows import Entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from bundle.drift import DriftEvent
    from edge_agent.delivery.publisher import Publisher
    from edge_agent.delivery.uploads import Uploader
    from edge_agent.health.report import Report
    from edge_agent.health.telemetry import Telemetry
    from edge_agent.messages import State, Topics
    from edge_agent.outbox.outbox import Outbox

_LOG = logging.getLogger(__name__)

_PUT_TIMEOUT_S = 0.5
_REPEATED = frozenset({"frame_failed", "photo_refused", "visit_rejected"})
_RATE, _BURST = 1 / 60, 20.0
_THROTTLED = "it is slowed down by heat or power"


class Alarms:
    """Events and status of one agent. Belongs to the agent's loop.

    Args:
        robot: Name of the robot.
        topics: Of the robot.
        outbox: Takes the events.
        publisher: Takes the status.
        uploader: Asked for its problem.
        report: Builds the status, and knows what was dropped.
        telemetry: Counts events that found no room.
        wall_clock: Seconds since 1970 UTC.
        clock: Monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - it listens to every part
        self,
        *,
        robot: str,
        topics: Topics,
        outbox: Outbox,
        publisher: Publisher,
        uploader: Uploader | None,
        report: Report,
        telemetry: Telemetry,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._robot = robot
        self._topics = topics
        self._outbox = outbox
        self._publisher = publisher
        self._uploader = uploader
        self._report = report
        self._telemetry = telemetry
        self._wall_clock = wall_clock
        self._unseen: set[str] = set()
        self._down: dict[str, str] = {}
        self._blind: dict[str, str] = {}
        self._moved: dict[str, str] = {}
        self._reasons: tuple[str, ...] | None = None
        self._said: dict[str, Any] | None = None
        self.certificates = CertificateWatch({})
        self._ends_said: dict[str, str] = {}
        self._unheard: set[str] = set()
        self._heat = report.heat
        self._losses = report.losses()
        self._repeats = Repeats(_RATE, _BURST, clock=clock)

    def event(self, event: str, severity: Literal["info", "warning", "error"], subject: str, problem: str) -> None:
        """Store an event for delivery.

        Args:
            event: One of a fixed set of words, see docs/mqtt.md.
            severity: How bad.
            subject: The thing that it is about.
            problem: One sentence.
        """
        if event in _REPEATED:
            held_back = self._repeats.admit(event)
            if held_back is None:
                return
            problem += f" ({held_back} more before this one were held back)" if held_back else ""
        now_s = self._wall_clock()
        message = EventMessage(
            event_id=new_event_id(now_s),
            robot=self._robot,
            event=event,
            severity=severity,
            subject=subject,
            problem=problem,
            at=utc(now_s),
            clock_synchronised=read_clock().synchronised,
        )
        entry = Entry(message.event_id, "event", self._topics.event, message.to_bytes())
        if not self._outbox.put(entry, timeout_s=_PUT_TIMEOUT_S):
            self._telemetry.count("events_not_stored")

    def camera_awaited(self, camera: str) -> None:
        """Note that a camera was started; until its first frame nothing is counted, and the status says so.

        Args:
            camera: Its name.
        """
        self._unseen.add(camera)

    def camera_lost(self, camera: str, problem: str) -> None:
        """Note that a camera is down.

        Args:
            camera: Its name.
            problem: Why; the event is said for the first failure alone.
        """
        self._unseen.discard(camera)
        if camera not in self._down:
            _LOG.warning("camera %s is down: %s", camera, problem)
            self.event("camera_lost", "error", camera, problem)
        self._down[camera] = problem

    def camera_failed(self, camera: str, problem: str) -> None:
        """Note that a camera can never work in this run.

        Args:
            camera: Its name.
            problem: Why.
        """
        self._unseen.discard(camera)
        self._down[camera] = problem
        self.event("camera_failed", "error", camera, problem)

    def camera_back(self, camera: str) -> None:
        """Note that a camera works.

        Args:
            camera: Its name.
        """
        self._unseen.discard(camera)
        if self._down.pop(camera, None) is not None:
            _LOG.info("camera %s is back", camera)
            self.event("camera_back", "info", camera, "")

    def camera_sight(self, camera: str, blind: str) -> None:
        """Note whether a camera that gives frames sees anything on them.

        Args:
            camera: Its name.
            blind: "dark", "bright", "torn", "blurred" or several; empty when it sees.
        """
        if blind == self._blind.get(camera, ""):
            return
        if not blind:
            del self._blind[camera]
            self.event("camera_sees", "info", camera, "")
            return
        if camera not in self._blind:
            self.event("camera_blind", "error", camera, f"its pictures are {blind}")
        self._blind[camera] = blind

    def camera_place(self, camera: str, moved: str) -> None:
        """Note whether a camera stands where its profile was made.

        Args:
            camera: Its name.
            moved: By how much it has moved, in words; empty when it stands there.
        """
        if moved and camera not in self._moved:
            _LOG.warning("camera %s has moved %s", camera, moved)
            self.event("camera_moved", "error", camera, f"it has moved {moved}: the bin lies elsewhere in its picture")
            self._moved[camera] = moved
        elif not moved and self._moved.pop(camera, ""):
            self.event("camera_in_place", "info", camera, "")

    def drift(self, camera: str, found: DriftEvent) -> None:
        """Note that a camera's visits look different from those of the calibration, or the same again.

        Args:
            camera: Its name.
            found: What was found.
        """
        _LOG.warning("camera %s: %s, %s", camera, found.kind, found.words)
        if found.kind == "drift":
            self.event("drift", "warning", camera, f"visits differ from those of the calibration: {found.words}")
        else:
            self.event("drift_over", "info", camera, found.words)

    def report_drops(self) -> None:
        """Say what was dropped since the last event about it; the numbers stand in the telemetry as well."""
        now = self._report.losses()
        news = {name: number - self._losses.get(name, 0) for name, number in now.items()}
        said = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in news.items() if number > 0)
        if said and self._repeats.admit("dropped") is not None:
            self._losses = now
            _LOG.warning("dropped: %s", said)
            self.event("dropped", "warning", "outbox", said)

    def report_heat(self) -> None:
        """Say when the machine begins to be slowed down, and each time its power supply gave too little."""
        before, self._heat = self._heat, self._report.heat
        if self._heat.throttled and not before.throttled:
            self.event("throttled", "warning", "machine", _THROTTLED)
        new = (self._heat.over_current_events or 0) - (before.over_current_events or 0)
        if before.over_current_events is not None and new > 0:
            self.event("over_current", "warning", "machine", f"the power supply gave too little {new} times more")

    @property
    def state(self) -> State:
        """What the last status says."""
        return "degraded" if self._reasons else "online"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the agent is degraded."""
        return self._reasons or ()

    def update_status(self) -> None:
        """Publish the status when something in it has changed."""
        reasons = [f"camera {name}: no frame yet" for name in sorted(self._unseen)]
        reasons += [f"camera {name}: {problem}" for name, problem in sorted(self._down.items())]
        reasons += [f"camera {name}: its pictures are {blind}" for name, blind in sorted(self._blind.items())]
        reasons += [f"camera {name}: it has moved {moved}" for name, moved in sorted(self._moved.items())]
        if self._outbox.is_full:
            reasons.append("outbox: the disk is full")
        if self._outbox.rescue_waits:
            reasons.append("outbox: rows of a damaged file wait in quarantine")
        if self._uploader is not None and self._uploader.worker.problem is not None:
            reasons.append(f"uploads: {self._uploader.worker.problem}")
        if self._heat.throttled:
            reasons.append(f"machine: {_THROTTLED}")
        if self._publisher.subscription_refused is not None:
            reasons.append(f"commands: the broker refuses the subscription: {self._publisher.subscription_refused}")
        reasons += self._refused()
        reasons += self._ending()
        reasons += self._publisher.refusals
        self._reasons = tuple(reasons)
        status = self._report.status(self.state, self._reasons, self._wall_clock())
        said = status.model_dump(exclude={"at"})
        if said != self._said:
            self._said = said
            self._publisher.set_status(status.wordings())

    def _refused(self) -> list[str]:
        """What the broker refuses of status, telemetry and discovery; the event is said once for each."""
        refused = self._publisher.direct.refused
        for topic, why in refused.items():
            if topic not in self._unheard:
                self._unheard.add(topic)
                self.event("report_refused", "warning", topic, f"the broker refuses it: {why}")
        return [f"broker: it refuses {topic}: {why}" for topic, why in refused.items()]

    def _ending(self) -> list[str]:
        """Certificates that end soon; the event is said once for each, and again when it has ended."""
        ending = self.certificates.ending
        for key, words in ending.items():
            if self._ends_said.get(key) != words:
                self.event("certificate_ends", "warning", key, f"the certificate {words}")
        self._ends_said = ending
        return [f"certificate: {key} {words}" for key, words in ending.items()]
