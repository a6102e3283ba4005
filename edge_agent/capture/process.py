"""The capture process: `python -m edge_agent.capture.process`, started, watched and killed by `Camera`.

An OpenCV read() can hang for ever, so it does so here, where SIGKILL is a cure. Files wait for a free slot. Live
sources do not: a thread reads on and on, and only the newest picture is handed over when a slot is free. When the
agent is gone this process ends at once, even in the middle of a read().
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from bundle.camera import Rectifier, require_size
from bundle.errors import BintallyError, CameraError, ConfigError, InputError
from bundle.preprocess import resize
from edge_agent.capture.frames import (
    MAX_MESSAGE_BYTES,
    SLOT,
    CaptureMessage,
    EndMessage,
    FailureMessage,
    FrameMessage,
    RefusedMessage,
    encode_message,
)
from edge_agent.capture.gate import measure
from edge_agent.capture.order import CaptureOrder, open_source
from edge_agent.capture.ring import FrameRing
from edge_agent.capture.sources import Picture, Source, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from bundle.manifest import Preprocessing
    from edge_agent.capture.markers import MarkerReader

_GOES_FIRST = "500"
_HOPELESS = (InputError, ConfigError)
"""What trying again cannot help."""


class Sender:
    """The capture process's end of the pipe and the memory.

    Attributes:
        markers: Reads labels; None when nobody wants to know.
        rectifier: Of the camera's profile; None leaves pictures as they are.

    Args:
        pipe: To the agent.
        ring: The shared memory.
        spec: The bundle's preprocessing, whose geometric half is done here, off the agent's core.
    """

    def __init__(self, pipe: socket.socket, ring: FrameRing, spec: Preprocessing) -> None:
        self.markers: MarkerReader | None = None
        self.rectifier: Rectifier | None = None
        self._pipe = pipe
        self._ring = ring
        self._spec = spec
        self._before: NDArray[np.uint8] | None = None
        threading.Thread(target=self._watch_agent, name="agent", daemon=True).start()

    def _watch_agent(self) -> None:
        """End with the agent. A read() that hangs in C cannot be left in any gentler way."""
        poll = select.poll()
        poll.register(self._pipe, 0)  # Nothing but the hang-up, which is always reported.
        poll.poll()
        os._exit(0)

    def wait_for_slot(self) -> tuple[int, float]:
        """Wait until the agent hands a slot over.

        Returns:
            Its number, and before which monotonic second no picture is wanted.
        """
        token = self._pipe.recv(SLOT.size)
        if not token:
            os._exit(0)
        slot, wanted_s = SLOT.unpack(token)
        return int(slot), float(wanted_s)

    def mark(self, index: int) -> None:
        """Note which picture is being worked on, for after a crash."""
        self._ring.cursor = index

    def send(self, message: CaptureMessage) -> None:
        """Send a message to the agent."""
        self._pipe.send(encode_message(message))

    def send_picture(self, slot: int, picture: Picture, dropped: int = 0) -> None:
        """Fill a slot and hand it over.

        Args:
            slot: From `wait_for_slot`.
            picture: What to send.
            dropped: Pictures dropped so far.

        Raises:
            InputError: It has another size than the camera's profile was made for.
        """
        seen_bgr = picture.image_bgr if self.rectifier is None else self.rectifier.apply(picture.image_bgr)
        network_bgr = resize(seen_bgr, self._spec)
        stats, self._before = measure(network_bgr, self._before, picture.image_bgr)
        self._ring.write(slot, picture.image_bgr, network_bgr, picture.encoded)
        height, width = picture.image_bgr.shape[:2]
        self.send(
            FrameMessage(
                slot=slot,
                index=picture.index,
                name=picture.name,
                height=height,
                width=width,
                encoded_bytes=len(picture.encoded),
                captured_s=picture.captured_s,
                captured_mono_s=picture.captured_mono_s,
                slept_s=picture.slept_s,
                position_s=picture.position_s,
                dropped=dropped,
                stats=stats,
                marker="" if self.markers is None else self.markers.read(picture.image_bgr),
            )
        )


class _Newest:
    """A place for one picture: putting a second one drops the first. The drops are counted."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._picture: Picture | None = None
        self._failure: BintallyError | None = None
        self._dropped = 0

    def put(self, picture: Picture) -> None:
        with self._changed:
            self._dropped += self._picture is not None
            self._picture = picture
            self._changed.notify()

    def fail(self, failure: BintallyError) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify()

    def take(self) -> tuple[Picture, int]:
        """Wait for a picture.

        Returns:
            The newest one, and how many were dropped before it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._picture is not None or self._failure is not None)
            if self._picture is None:
                raise self._failure or CameraError("the camera stopped")
            picture, self._picture = self._picture, None
            return picture, self._dropped


def serve(source: Source, sender: Sender, start: int) -> None:
    """Send everything a source has; returns when it ends.

    Args:
        source: What to read.
        sender: Where to.
        start: First picture to read.
    """
    try:
        if source.live:
            _serve_live(source, sender)
        else:
            _serve_file(source, sender, start)
        sender.send(EndMessage())
    except BintallyError as exc:
        sender.send(FailureMessage(str(exc), fatal=isinstance(exc, _HOPELESS)))


def _serve_file(source: Source, sender: Sender, start: int) -> None:
    for item in source.read(start, sender.mark):
        if isinstance(item, Unusable):
            sender.send(RefusedMessage(item.index, item.name, item.problem))
        else:
            slot, _ = sender.wait_for_slot()
            sender.send_picture(slot, item)


def _serve_live(source: Source, sender: Sender) -> None:
    newest = _Newest()

    def read_on() -> None:
        try:
            size: tuple[int, ...] = ()
            for item in source.read(0, sender.mark):
                if isinstance(item, Picture):
                    size = _same_size(item, size)
                    _require_fit(item, sender.rectifier)
                    newest.put(item)
            newest.fail(CameraError("the camera's stream ended", fix="It is opened again."))
        except BintallyError as exc:
            newest.fail(exc)

    threading.Thread(target=read_on, name="reader", daemon=True).start()
    while True:
        slot, source.wanted_s = sender.wait_for_slot()
        picture, dropped = newest.take()
        sender.send_picture(slot, picture, dropped)


def _same_size(picture: Picture, size: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a camera that changes the size of its pictures on the way: the bin would lie elsewhere in them."""
    if size not in ((), picture.image_bgr.shape):
        raise CameraError(
            "the camera has changed the size of its pictures",
            got=f"{picture.image_bgr.shape[1]}x{picture.image_bgr.shape[0]}",
            expected=f"{size[1]}x{size[0]}",
            fix="It is opened again.",
        )
    return picture.image_bgr.shape


def _require_fit(picture: Picture, rectifier: Rectifier | None) -> None:
    """Refuse pictures that the profile does not fit: opened again, a camera may have the right resolution."""
    if rectifier is None:
        return
    try:
        require_size(picture.image_bgr, rectifier.profile)
    except InputError as exc:
        raise CameraError(str(exc)) from exc


def run(arguments: list[str], choose: Callable[[CaptureOrder], Source] = open_source) -> None:
    """Run a capture process; it ends when the agent closes the pipe.

    Args:
        arguments: Descriptor of the memory, descriptor of the pipe.
        choose: Opens the source for an order.
    """
    ring_descriptor, pipe_descriptor = arguments
    pipe = socket.socket(fileno=int(pipe_descriptor))
    order = CaptureOrder(**json.loads(pipe.recv(MAX_MESSAGE_BYTES)))
    threading.excepthook = _die
    with suppress(OSError):  # where memory runs out, the process that can be started anew goes first
        Path("/proc/self/oom_score_adj").write_text(_GOES_FIRST, encoding="ascii")
    sender = Sender(pipe, FrameRing(int(ring_descriptor), order.shape), order.spec)
    try:
        sender.markers, sender.rectifier = order.reader, order.rectifier
        serve(choose(order), sender, order.start)
    except _HOPELESS as exc:
        sender.send(FailureMessage(str(exc), fatal=True))
    threading.Event().wait()


def _die(failure: threading.ExceptHookArgs) -> None:
    """End at once when a thread has failed in an unforeseen way: a dead process is noticed sooner than a silent one."""
    sys.excepthook(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)
    os._exit(1)


def main() -> None:
    """Entry point of the child: one thread of its own is enough to decode, the other cores count."""
    cv2.setNumThreads(1)
    gc.freeze()  # What was imported stays; going through it again would hold a frame up.
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
