"""The agent: start, run, stop.

```
capture processes --shared memory--> this loop --outbox on disk--> delivery threads (MQTT, uploads)
```
The loop never waits for the network. It ends when every source has ended, or when `request_stop` was called; either way
what was accepted is on disk, and the last message of a run says in numbers what became of it.

One step that fails in an unforeseen way is caught here, counted and logged; many in a row end the agent.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from typing import TYPE_CHECKING

from bundle.errors import BintallyError, EngineError, InputError
from edge_agent.capture.frames import Frame, Notice
from edge_agent.health.prometheus import exposition
from edge_agent.health.watchdog import Watchdog
from edge_agent.lifecycle import CLOSE_S, GOODBYE_S, begin, deliver_and_close
from edge_agent.stages import stages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bundle.counter import Counter
    from edge_agent.capture.camera import Camera
    from edge_agent.messages import Totals
    from edge_agent.outbox.rows import Entry
    from edge_agent.parts import Parts
    from edge_agent.tuning import Tuning
    from edge_agent.visits.completion import Outcome

_LOG = logging.getLogger(__name__)

_TURN_S = 0.2
_TICK_S = 0.05
_MAX_FAILED_STEPS = 20
_PUT_TIMEOUT_S = 0.5


class Agent:
    """Runs until its sources end or it is asked to stop.

    Args:
        parts: What it is made of.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970 UTC.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._wall_clock = wall_clock
        self._stop = threading.Event()
        self._progress_s = clock()
        self._next_tick_s = 0.0
        self._next_telemetry_s = clock() + parts.pace.telemetry_interval_s
        self._failed_steps = 0
        self._failures: list[str] = []
        self._watchdog = Watchdog(stages(parts, lambda: self._progress_s), clock=clock)
        parts.commands.exchange.on_counter = self._swap
        parts.commands.exchange.on_tuning = self._tune

    @property
    def parts(self) -> Parts:
        """What it is made of, for benchmarks and tests."""
        return self._parts

    @property
    def late(self) -> list[str]:
        """Stages that make no progress."""
        return self._watchdog.late()

    def request_stop(self) -> None:
        """Ask the loop to end; any thread and any signal handler may."""
        self._stop.set()

    def run(self) -> Totals:
        """Count until the sources end or a stop is requested.

        Returns:
            The totals of the run, as in the last status message.

        Raises:
            InputError: A source can never work.
            EngineError: The engine failed on many frames in a row.
            DeliveryError: The outbox's disk is broken.
        """
        with self._parts.probation.fair():
            begin(self._parts)
            try:
                while not self._stop.is_set() and not all(camera.ended for camera in self._parts.cameras):
                    self._turn()
                self._parts.probation.acquit()
            finally:
                totals = self._finish()
        if self._failures:
            raise InputError("; ".join(self._failures))
        return totals

    def _turn(self) -> None:
        """Wait for frames and take each camera's next one the whole way."""
        now_s = self._clock()
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + _TICK_S
            self._tick()
        if self._parts.outbox.failure is not None:
            raise self._parts.outbox.failure
        frames: list[tuple[Camera, Frame]] = []
        for camera in self._ready_cameras():
            item = camera.receive()
            if isinstance(item, Frame):
                if camera.jumped:  # the machine slept: what the camera sees now is not what the open visit saw
                    self._follow(camera, item.message.name, self._parts.path.finish(camera))
                frames.append((camera, item))
            else:
                self._note(camera, item)
        for number, (camera, frame) in enumerate(frames):
            self._take(camera, frame, frames if number == 0 else ())
        self._progress_s = self._clock()

    def _swap(self, counter: Counter) -> None:
        """Count with another counter. Only a camera whose pictures it wants in another size is started anew."""
        parts, preprocessing = self._parts, counter.bundle.manifest.preprocessing
        for camera in parts.cameras:
            if not camera.fits(preprocessing):
                self._follow(camera, camera.name, parts.path.finish(camera))
                camera.use(preprocessing)
        parts.path.swap(counter)
        parts.report.swap(counter)
        parts.probation.swapped()
        parts.alarms.update_status()

    def _tune(self, tuning: Tuning) -> None:
        self._parts.path.tune(tuning.threshold, tuning.uploads)
        logging.getLogger().setLevel(tuning.log_level.upper())

    def _ready_cameras(self) -> list[Camera]:
        """Wait for messages from capture processes."""
        poll, cameras = select.poll(), {}
        for camera in self._parts.cameras:
            if camera.connection is not None:
                cameras[camera.connection.fileno()] = camera
                poll.register(camera.connection, select.POLLIN)
        return [cameras[descriptor] for descriptor, _ in poll.poll((_TURN_S if cameras else _TICK_S) * 1e3)]

    def _tick(self) -> None:
        """What is due between two turns, when no frame is held: a camera or a command may start a camera anew."""
        self._parts.commands.exchange.serve()
        for camera in self._parts.cameras:
            self._note(camera, camera.tick())
        self._keep_telling()

    def _keep_telling(self) -> None:
        """Status, telemetry and watchdog: what goes on also while a frame waits for room."""
        parts = self._parts
        parts.alarms.update_status()
        now_s = self._clock()
        if now_s >= self._next_telemetry_s:
            self._next_telemetry_s = now_s + parts.pace.telemetry_interval_s
            parts.alarms.report_drops()
            self._tell()
        self._watchdog.ping()

    def _tell(self) -> None:
        """Say how it goes: to the broker, to systemd, and to Prometheus if it is asked for."""
        parts = self._parts
        message = parts.report.telemetry(self._wall_clock())
        parts.publisher.send_telemetry(message.wordings())
        parts.alarms.report_heat()
        if parts.outbox.is_stored:
            parts.probation.told()
        if parts.endpoint is not None:
            parts.endpoint.show(exposition(message, parts.alarms.state))
        counts, waiting = message.totals["accepted"], message.queue["messages"]
        why = f" ({'; '.join(parts.alarms.reasons)})" if parts.alarms.reasons else ""
        self._watchdog.say(f"{parts.alarms.state}{why}: {counts} counts, {waiting} messages wait, {message.fps} fps")

    def _take(self, camera: Camera, frame: Frame, together: Sequence[tuple[Camera, Frame]]) -> None:
        """Take one frame through the frame path, whatever happens to it."""
        self._parts.telemetry.count("frames")
        self._parts.telemetry.latency("capture", (self._clock() - frame.message.captured_mono_s) * 1e3)
        failure: Exception | None = None
        try:
            self._parts.commands.exchange.show(camera, frame)
            outcome = self._parts.path.step(camera, frame, together)
            self._failed_steps = 0
        except Exception as exc:  # noqa: BLE001 - the one place around a step; see the module docstring
            failure, outcome = exc, self._parts.path.abandon(camera)
        finally:
            camera.release(frame, self._parts.path.wanted_s(camera))
        if failure is not None:
            self._step_failed(frame, failure)
        else:
            self._note(camera, camera.restart("the picture is frozen") if outcome.frozen else camera.came_back())
            self._parts.alarms.camera_sight(camera.name, self._parts.path.blind(camera))
            self._parts.alarms.camera_place(camera.name, self._parts.path.moved(camera))
        self._follow(camera, frame.message.name, outcome)

    def _step_failed(self, frame: Frame, exc: Exception) -> None:
        self._failed_steps += 1
        self._parts.telemetry.count("steps_failed")
        if not isinstance(exc, BintallyError):
            _LOG.error("frame %s failed in an unforeseen way", frame.message.name, exc_info=exc)
        self._parts.alarms.event("frame_failed", "error", frame.message.name, f"{type(exc).__name__}: {exc}")
        if self._failed_steps >= _MAX_FAILED_STEPS:
            raise EngineError(f"{self._failed_steps} frames in a row failed", got=exc) from exc

    def _follow(self, camera: Camera, name: str, outcome: Outcome) -> None:
        if outcome.rejected is not None:
            self._parts.alarms.event(
                "visit_rejected", "warning", name, f"no frame of the visit can be counted: {outcome.rejected}"
            )
        if outcome.rescan is not None:
            self._parts.alarms.event("rescan_wanted", "info", outcome.rescan, "the count is unsure: look again")
        if outcome.entry is not None:
            self._store(outcome.entry, patient=not camera.live or outcome.answers)
            if outcome.entry.kind == "count":
                self._parts.probation.counted()
        if outcome.drift is not None:
            self._parts.alarms.drift(camera.name, outcome.drift)

    def _store(self, entry: Entry, *, patient: bool) -> None:
        """Hand an entry to the outbox. Files and answers wait for room; a live count is dropped, and counted."""
        while not self._parts.outbox.put(entry, timeout_s=_PUT_TIMEOUT_S):
            self._progress_s = self._clock()
            if not patient or self._stop.is_set():
                self._parts.telemetry.count("counts_not_stored" if entry.kind == "count" else "events_not_stored")
                return
            self._keep_telling()

    def _note(self, camera: Camera, notices: Sequence[Notice]) -> None:
        for notice in notices:
            if notice.kind == "refused":
                self._parts.telemetry.count("photos_refused")
                _LOG.warning("%s: %s", notice.subject, notice.problem)
                self._parts.alarms.event("photo_refused", "warning", notice.subject, notice.problem)
            elif notice.kind == "back":
                self._watchdog.ready()
                self._parts.alarms.camera_back(notice.camera)
            elif notice.kind == "lost":
                self._camera_lost(camera, notice)
            else:
                self._source_over(camera, notice)

    def _camera_lost(self, camera: Camera, notice: Notice) -> None:
        self._watchdog.ready()
        self._follow(camera, notice.subject, self._parts.path.finish(camera))
        self._parts.telemetry.count("camera_losses")
        self._parts.alarms.camera_lost(notice.camera, notice.problem)

    def _source_over(self, camera: Camera, notice: Notice) -> None:
        self._follow(camera, notice.subject, self._parts.path.finish(camera))
        if notice.kind == "failed":
            self._parts.alarms.camera_failed(notice.camera, notice.problem)
            self._failures.append(notice.problem)

    def _finish(self) -> Totals:
        """Stop capturing and carrying commands out, deliver what there is time for, close."""
        parts = self._parts
        self._watchdog.ready()
        if self._stop.is_set():
            self._watchdog.stopping(parts.pace.stop_timeout_s + 2 * CLOSE_S + 2 * GOODBYE_S)
        if self._stop.is_set():
            for camera in parts.cameras:  # what an open visit has seen is counted, not forgotten
                self._follow(camera, camera.name, parts.path.finish(camera))
        self._watchdog.release("commands")  # delivering what waits may take longer than a silent thread is allowed
        parts.commands.finish(GOODBYE_S)
        for camera in parts.cameras:
            camera.end()
        return deliver_and_close(
            parts, asked=self._stop.is_set, idle=self._idle, clock=self._clock, wall_clock=self._wall_clock
        )

    def _idle(self) -> None:
        """Let time pass without a frame."""
        self._progress_s = self._clock()
        self._tick()
        time.sleep(_TICK_S)
