"""A camera as the agent sees it: frames, or a notice. The process behind it may hang, crash or vanish.

Invariants:
- The process is killed when it is silent for longer than it may be while it has a free slot to fill, and started again
  after a jittered, growing pause. Nothing in here blocks.
- A picture of a file source that twice kills its process is refused and skipped; every other picture is handed over
  exactly once per pass, also across restarts.
- A frame's pixels are valid until `release`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from bundle.camera import Rectifier
from bundle.errors import CameraError
from edge_agent.backoff import Backoff
from edge_agent.capture.attempts import Attempts
from edge_agent.capture.child import CAPTURE_COMMAND, CaptureProcess, is_readable
from edge_agent.capture.continuity import Continuity
from edge_agent.capture.devices import Device
from edge_agent.capture.frames import EndMessage, FailureMessage, Frame, FrameMessage, Notice, RefusedMessage
from edge_agent.capture.order import CaptureOrder
from edge_agent.capture.ring import FrameRing
from edge_agent.capture.sources import SourceKind, source_kind
from edge_agent.masking import shown_source

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from bundle.camera import CameraProfile
    from bundle.manifest import Preprocessing
    from edge_agent.config import CameraSection

_FILE_SLOTS = 4
"""Photos that are decoded ahead. A live source has one slot: its next frame is chosen when the slot is free."""
_FIRST_PAUSE_S = 0.5
_WEIGH_EVERY_S = 1.0
_REST_S = 0.5
"""Between two looks of a camera of which no frame is wanted: a visit that somebody asks for begins so much later."""
_STABLE_S = 10.0
"""A process that gave frames for so long is healthy: the next pause is short again."""


class Camera:
    """Starts, watches and reads one capture process.

    Args:
        settings: Of this camera.
        preprocessing: Of the bundle, whose geometric half the capture process does.
        command: The capture process's command line, without its two arguments.
        profile: Applied to every picture before the preprocessing; None leaves pictures as they are.
        clock: Monotonic seconds.

    Attributes:
        jumped: The robot may have been carried on before the last frame, see `Continuity`.

    Raises:
        InputError: The source does not exist.
    """

    def __init__(
        self,
        settings: CameraSection,
        preprocessing: Preprocessing,
        *,
        command: Sequence[str] = CAPTURE_COMMAND,
        profile: CameraProfile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = settings.name
        self.kind: SourceKind = source_kind(settings.source)
        self.live = self.kind == "camera"
        self.dropped = 0
        self.ended = self.connected = self.jumped = False
        self.progress_s = clock()
        self.profile = profile
        self._rectifier = None if profile is None else Rectifier(profile)
        self._settings = settings
        self._shown = shown_source(settings.source)
        self._clock = clock
        slots = 1 if self.live else _FILE_SLOTS
        self._order = CaptureOrder.of(settings, preprocessing, profile, slots=slots)
        self._ring = FrameRing.create(self._order.shape)
        self._capture = CaptureProcess(command, settings.name)
        self._attempts = Attempts()
        self._weigh_at_s = 0.0
        self._backoff = Backoff(_FIRST_PAUSE_S, settings.restart_max_s)
        self._retry_at_s = self._started_s = 0.0
        self._heard, self._killed_for = False, ""
        self._held = self._dropped_before = 0
        # What is slow on purpose is not stalled.
        looks_s = _REST_S if self.live else 0.0
        between_s = max(settings.pause_s, looks_s, 1.0 / settings.look_fps, 1.0 / (settings.fps or settings.look_fps))
        self._allowed_s = settings.stall_s + between_s
        self._device = Device(settings.source)
        self._continuity = Continuity(self._allowed_s)

    @property
    def connection(self) -> socket.socket | None:
        """The pipe to the capture process; None while there is none."""
        return self._capture.connection

    def tick(self) -> list[Notice]:
        """Start what should run, kill what hangs or grows without end. Call it often.

        Returns:
            What happened.
        """
        if self.ended:
            return []
        now_s = self._clock()
        if self._capture.process is None:
            return self._try_to_start() if now_s >= self._retry_at_s else []
        problem = self._trouble(now_s)
        return self.restart(problem) if problem else []

    def _trouble(self, now_s: float) -> str:
        """What is wrong with the process; empty when nothing is."""
        if now_s >= self._weigh_at_s:
            self._weigh_at_s = now_s + _WEIGH_EVERY_S
            held = self._capture.memory_bytes
            if held > self._settings.max_memory_bytes:
                self._killed_for = f"its process took {held >> 20} MiB of memory"
                self._capture.kill()  # what it has sent is taken first; the pipe's end then tells
        if self.connection is not None and is_readable(self.connection):
            return ""
        silent_s = now_s - self.progress_s
        if not self._heard and silent_s > self._settings.open_timeout_s:
            return f"no frame within {self._settings.open_timeout_s:g} s of its start"
        stalled = self._heard and self._held < self._order.slots and silent_s > self._allowed_s
        return f"no frame for {silent_s:.1f} s" if stalled else ""

    def fits(self, preprocessing: Preprocessing) -> bool:
        """Tell whether the capture process already does this preprocessing's geometric half."""
        return self._order.preprocessing == preprocessing.model_dump(mode="json")

    def use(self, preprocessing: Preprocessing) -> None:
        """Go on with another preprocessing; no frame may be held. The capture process is started anew by `tick`.

        Args:
            preprocessing: Of the bundle that counts from now on.
        """
        self.stop()
        self._ring.close()
        self._order = replace(self._order, preprocessing=preprocessing.model_dump(mode="json"))
        self._ring = FrameRing.create(self._order.shape)
        self._retry_at_s = self._clock()

    def _try_to_start(self) -> list[Notice]:
        """Start the process; a machine that is out of memory, descriptors or processes is asked again later."""
        try:
            self._start()
        except OSError as exc:
            self.stop()
            self.connected = False
            self._retry_at_s = self._clock() + self._backoff.next_s()
            return [Notice("lost", self.name, self._shown, f"its process cannot be started: {exc.strerror}")]
        return []

    def _start(self) -> None:
        start = self._attempts.next_index
        self._ring.cursor = start - 1
        self._heard, self._killed_for = False, ""
        self._held = 0
        self._dropped_before = self.dropped
        self._capture.start(replace(self._order, start=start, source=self._device.now()), self._ring.descriptor)
        self.progress_s = self._started_s = self._clock()

    def receive(self) -> Frame | list[Notice]:
        """Take the next message; call it when `connection` is readable.

        Returns:
            A frame, to be given back by `release`, or what happened instead.
        """
        if self.connection is None:
            return []
        try:
            message = self._capture.receive()
        except CameraError as exc:
            return self.restart(str(exc))
        if message is None:
            return self.restart("the capture process died")
        self.progress_s = self._clock()
        if isinstance(message, FailureMessage):
            return self._fail(message)
        if isinstance(message, EndMessage):
            self.stop()
            self.ended = True
            return [Notice("ended", self.name, self._shown)]
        return self._accept(message)

    def _accept(self, message: FrameMessage | RefusedMessage) -> Frame | list[Notice]:
        self._heard = True
        self._attempts.arrived(message.index)
        if isinstance(message, RefusedMessage):
            return [Notice("refused", self.name, message.name, message.problem)]
        self._held += 1
        self.jumped = self._continuity.broken_before(message) and self.live
        if self.progress_s - self._started_s > _STABLE_S:
            self._backoff.reset()
        self.dropped = self._dropped_before + message.dropped
        return Frame(self.name, message, self._ring.image(message), self._ring.network_image(message))

    def came_back(self) -> list[Notice]:
        """Tell, once, that frames flow. Call it for each frame that is not frozen.

        Returns:
            A "back" notice for the first frame after the start or a loss.
        """
        if self.connected:
            return []
        self.connected = True
        return [Notice("back", self.name, self._shown)]

    def encoded(self, frame: Frame) -> bytes:
        """Copy the file that a frame was decoded from.

        Args:
            frame: Not yet released.

        Returns:
            The file; empty for video, and with a profile, because the file is not what was counted.
        """
        return b"" if self._rectifier is not None else self._ring.encoded(frame.message)

    def rectified(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the network saw of a picture, before it was made small: this is what people get to see.

        Args:
            image_bgr: uint8, (H, W, 3), BGR, as the camera gave it.

        Returns:
            uint8, (h, w, 3), BGR; the input itself without a profile.
        """
        return image_bgr if self._rectifier is None else self._rectifier.apply(image_bgr)

    def release(self, frame: Frame, wanted_s: float = 0.0) -> None:
        """Hand a frame's slot back to the capture process.

        Args:
            frame: From `receive`; its pixels are invalid from here on.
            wanted_s: Before this monotonic second a live camera need not look, but for a look now and then whether it
                still sees.
        """
        self._held = max(0, self._held - 1)
        self.progress_s = self._clock()  # it could not fill a slot that was held
        if self.connection is not None:
            self._ring.forget(frame.message)
            self._capture.give(frame.message.slot, min(wanted_s, self._clock() + _REST_S))

    def _fail(self, message: FailureMessage) -> list[Notice]:
        if not message.fatal:
            return self.restart(message.problem)
        self.stop()
        self.ended = True
        return [Notice("failed", self.name, self._shown, message.problem)]

    def restart(self, problem: str) -> list[Notice]:
        """Kill the process and try again later.

        Args:
            problem: Why.

        Returns:
            A "lost" notice; "refused" of a picture that it was lost at twice, "failed" when it never gets to one.
        """
        problem = self._killed_for or problem
        verdict = "again" if self.live else self._attempts.lost(self._ring.cursor, heard=self._heard)
        self.stop()
        self.connected = False
        self._retry_at_s = self._clock() + self._backoff.next_s()
        if verdict == "poisoned":
            subject = f"picture {self._attempts.next_index - 1} of {self._shown}"
            return [Notice("refused", self.name, subject, f"{problem} twice at this picture")]
        if verdict == "hopeless":
            self.ended = True
            return [Notice("failed", self.name, self._shown, f"several starts without a picture: {problem}")]
        return [Notice("lost", self.name, self._shown, problem)]

    def end(self) -> None:
        """Stop for good: the source counts as ended."""
        self.stop()
        self.ended = True

    def stop(self) -> None:
        """End the process, however it is."""
        self._capture.stop()

    def close(self) -> None:
        """End and free the shared memory."""
        self.end()
        self._ring.close()
