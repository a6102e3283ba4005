"""A camera as the agent sees it: frames, or a notice. The process behind it may hang, crash or vanish.

Invariants:
- The process is killed when it is silent for longer than it may be while it has a free slot to fill, and started again
  after a jittered, growing pause. Nothing in here blocks.
- A picture of a file source that twice kills its process is refused and skipped; every other picture is handed over
  exactly once per pass, also across restarts.
- A frame's pixels are valid until `release`.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bundle.camera import Rectifier
from bundle.errors import CameraError
from edge_agent.backoff import Backoff
from edge_agent.capture_order import CaptureOrder
from edge_agent.devices import find_device, is_local, stable_names
from edge_agent.frames import (
    MAX_MESSAGE_BYTES,
    SLOT,
    EndMessage,
    FailureMessage,
    FrameMessage,
    RefusedMessage,
    decode_message,
)
from edge_agent.masking import shown_source
from edge_agent.ring import FrameRing
from edge_agent.sources import SourceKind, source_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from bundle.camera import CameraProfile
    from bundle.manifest import Preprocessing
    from edge_agent.config import CameraSection

_LOG = logging.getLogger(__name__)

CAPTURE_COMMAND = (sys.executable, "-m", "edge_agent.capture")
_FILE_SLOTS = 4
"""Photos that are decoded ahead. A live source has one slot: its next frame is chosen when the slot is free."""
_MAX_SILENT_STARTS = 5
_KILL_WAIT_S = 5.0
_FIRST_PAUSE_S = 0.5
_REST_S = 0.5
"""Between two looks of a camera of which no frame is wanted: a visit that somebody asks for begins so much later."""
_SUSPENDED_S = 1.0
"""A machine that slept for so long may stand elsewhere; less is the noise of two clocks, read one after the other."""
_STABLE_S = 10.0
"""A process that gave frames for so long is healthy: the next pause is short again."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture in the agent's hands.

    Attributes:
        camera: Name of its camera.
        message: What the capture process said of it.
        image_bgr: uint8, (H, W, 3), BGR, 0..255: a view, valid until the camera's `release`.
        network_bgr: The same picture after the geometric half of the preprocessing: uint8, (h, w, 3), BGR, a view.
    """

    camera: str
    message: FrameMessage
    image_bgr: NDArray[np.uint8]
    network_bgr: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something other than a frame.

    Attributes:
        kind: "refused" one picture; "lost" the camera is down and will be tried again; "back" it works again; "ended"
            the source is finished; "failed" it can never work.
        camera: Name of the camera.
        subject: The picture or the source that it is about.
        problem: One sentence, empty for "back" and "ended".
    """

    kind: Literal["refused", "lost", "back", "ended", "failed"]
    camera: str
    subject: str
    problem: str = ""


def is_readable(pipe: socket.socket, timeout_s: float = 0.0) -> bool:
    """Tell whether a message waits.

    Args:
        pipe: To a capture process.
        timeout_s: How long to wait for one.

    Returns:
        True also when the process is gone, which reading will tell.
    """
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(timeout_s * 1e3))


class Camera:
    """Starts, watches and reads one capture process.

    Args:
        settings: Of this camera.
        preprocessing: Of the bundle, whose geometric half the capture process does.
        command: The capture process's command line, without its two arguments.
        profile: Applied to every picture before the preprocessing; None leaves pictures as they are.
        clock: Monotonic seconds.

    Attributes:
        jumped: Between the last frame and the one before lies more time than a working camera ever lets pass,
            or the machine was suspended, while the monotonic clock stands still.

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
        self.ended = False
        self.connected = False
        self.connection: socket.socket | None = None
        self.progress_s = clock()
        self.profile = profile
        self._rectifier = None if profile is None else Rectifier(profile)
        self._settings = settings
        self._shown = shown_source(settings.source)
        self._command = tuple(command)
        self._clock = clock
        self._order = CaptureOrder(
            source=settings.source,
            start=0,
            slots=1 if self.live else _FILE_SLOTS,
            max_pixels=settings.max_pixels,
            preprocessing=preprocessing.model_dump(mode="json"),
            repeat=settings.repeat,
            pause_s=settings.pause_s,
            width=settings.width,
            height=settings.height,
            fps=settings.fps,
            look_fps=settings.look_fps,
            marker=settings.marker,
            marker_dictionary=settings.marker_dictionary,
            profile=None if profile is None else profile.model_copy(update={"view": None}).model_dump(mode="json"),
        )
        self._ring = FrameRing.create(self._order.shape)
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff(_FIRST_PAUSE_S, settings.restart_max_s)
        self._retry_at_s = 0.0
        self._started_s = 0.0
        self._heard = False
        self._held = 0
        self._next_index = 0
        self._silent_starts = 0
        self._dropped_before = 0
        self._suspect: int | None = None
        # What is slow on purpose is not stalled.
        looks_s = _REST_S if self.live else 0.0
        between_s = max(settings.pause_s, looks_s, 1.0 / settings.look_fps, 1.0 / (settings.fps or settings.look_fps))
        self._allowed_s = settings.stall_s + between_s
        self._names: tuple[str, ...] = ()
        self.jumped = False
        self._captured_s = self._slept_s = 0.0

    def tick(self) -> list[Notice]:
        """Start what should run, kill what hangs. Call it often.

        Returns:
            What happened.
        """
        now_s = self._clock()
        if self.ended:
            return []
        if self._process is None:
            return self._try_to_start() if now_s >= self._retry_at_s else []
        if self.connection is not None and is_readable(self.connection):
            return []
        silent_s = now_s - self.progress_s
        if not self._heard and silent_s > self._settings.open_timeout_s:
            return self._lose(f"no frame within {self._settings.open_timeout_s:g} s of its start")
        if self._heard and self._held < self._order.slots and silent_s > self._allowed_s:
            return self._lose(f"no frame for {silent_s:.1f} s")
        return []

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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection = ours
        with theirs:
            self._start_process(ours, theirs)

    def _start_process(self, ours: socket.socket, theirs: socket.socket) -> None:
        order = replace(self._order, start=self._next_index, source=self._source_now())
        self._ring.cursor = self._next_index - 1
        path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [*self._command, str(self._ring.descriptor), str(theirs.fileno())],
            pass_fds=(self._ring.descriptor, theirs.fileno()),
            # OpenCV's errors quote a camera's whole address; what failed is told by the capture process.
            env={"OPENCV_LOG_LEVEL": "FATAL", **os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for the agent, which then ends its cameras itself.
            start_new_session=True,
        )
        self._heard = False
        self._held = 0
        self._dropped_before = self.dropped
        self.progress_s = self._started_s = self._clock()
        ours.send(json.dumps(asdict(order)).encode())
        for slot in range(self._order.slots):
            ours.send(SLOT.pack(slot, 0.0))

    def _source_now(self) -> int | str:
        """Where the camera is now: a device is learnt by its stable names and found by them when its number changed."""
        if not (self.live and is_local(self._settings.source)):
            return self._settings.source
        self._names = self._names or stable_names(self._settings.source)
        return find_device(self._settings.source, self._names)

    def receive(self) -> Frame | list[Notice]:
        """Take the next message; call it when `connection` is readable.

        Returns:
            A frame, to be given back by `release`, or what happened instead.
        """
        if self.connection is None:
            return []
        try:
            data = self.connection.recv(MAX_MESSAGE_BYTES)
            message = decode_message(data) if data else None
        except OSError:
            message = None
        except CameraError as exc:
            return self._lose(str(exc))
        if message is None:
            return self._lose("the capture process died")
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
        self._silent_starts = 0
        self._next_index = message.index + 1
        if isinstance(message, RefusedMessage):
            return [Notice("refused", self.name, message.name, message.problem)]
        self._held += 1
        gone_s = message.captured_mono_s - self._captured_s
        suspended_s = message.slept_s - self._slept_s
        self.jumped = self.live and (gone_s > self._allowed_s or suspended_s > _SUSPENDED_S)
        self._captured_s, self._slept_s = message.captured_mono_s, message.slept_s
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
        if self.connection is None:
            return
        self._ring.forget(frame.message)
        try:
            self.connection.send(SLOT.pack(frame.message.slot, min(wanted_s, self._clock() + _REST_S)))
        except OSError:
            return  # The process is dead; the next receive says so.

    def restart(self, problem: str) -> list[Notice]:
        """Kill the process and try again later, for a camera that sends the same picture for ever.

        Args:
            problem: Why.

        Returns:
            A "lost" notice.
        """
        return self._lose(problem)

    def _fail(self, message: FailureMessage) -> list[Notice]:
        if not message.fatal:
            return self._lose(message.problem)
        self.stop()
        self.ended = True
        return [Notice("failed", self.name, self._shown, message.problem)]

    def _lose(self, problem: str) -> list[Notice]:
        at_work = self._ring.cursor if not self.live and self._ring.cursor >= self._next_index else None
        poisoned = at_work is not None and at_work == self._suspect
        self._suspect = at_work
        self._silent_starts += not self._heard and at_work is None
        self.stop()
        self.connected = False
        self._retry_at_s = self._clock() + self._backoff.next_s()
        source = self._shown
        if poisoned and at_work is not None:
            self._next_index = at_work + 1
            return [Notice("refused", self.name, f"picture {at_work} of {source}", f"{problem} twice at this picture")]
        if not self.live and self._silent_starts >= _MAX_SILENT_STARTS:
            self.ended = True
            return [Notice("failed", self.name, source, f"{self._silent_starts} starts without a picture: {problem}")]
        return [Notice("lost", self.name, source, problem)]

    def end(self) -> None:
        """Stop for good: the source counts as ended."""
        self.stop()
        self.ended = True

    def stop(self) -> None:
        """End the process, however it is."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self._process is not None:
            self._process.kill()
            try:
                self._process.wait(_KILL_WAIT_S)
            except subprocess.TimeoutExpired:
                # Stuck in the kernel (uninterruptible): it dies with its device. Waiting would stop the other cameras.
                _LOG.warning("capture process %d of camera %s does not die", self._process.pid, self.name)
            self._process = None

    def close(self) -> None:
        """End and free the shared memory."""
        self.end()
        self._ring.close()
