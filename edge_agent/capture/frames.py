"""What the capture process says to the agent, over a pipe, and what the agent makes of it: a frame, or a notice.

The pixels cross beside it, by shared memory: see `ring`.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from bundle.errors import CameraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_MESSAGE_BYTES = 16 << 10
"""Of one message on the pipe, a socket that keeps messages apart."""


@dataclass(frozen=True, slots=True)
class FrameStats:
    """What the gate needs to know of a picture, measured where the picture is decoded.

    Attributes:
        brightness: Mean grey level, 0..255.
        sharpness: Variance of the Laplacian.
        motion: Mean absolute grey change against the picture before, 0..255; 0 for the first.
        checksum: Of the pixels; a live camera never repeats it.
        flat_tail: Share of the height, from below, whose rows all repeat: the sensor's noise never does that, what a
            decoder fills in for a missing end does.
    """

    brightness: float
    sharpness: float
    motion: float
    checksum: int
    flat_tail: float = 0.0


@dataclass(frozen=True, slots=True)
class FrameMessage:
    """One picture lies in `slot`.

    Attributes:
        slot: Which slot; it belongs to the agent until the agent hands its number back.
        index: Number of the picture in its source, from 0.
        name: File name, or the number of the frame.
        height: Pixels.
        width: Pixels.
        encoded_bytes: Length of the undecoded file behind the pixels, 0 when there is none.
        captured_s: Wall clock at capture, seconds since 1970 UTC.
        captured_mono_s: time.monotonic at capture; both processes share this clock.
        position_s: Time inside a video file; None for anything else.
        dropped: Frames that this process has dropped since it started, because newer ones came.
        stats: For the gate.
        marker: What the label in the picture says, empty when none is read.
        slept_s: How long the machine had been suspended since its start, when the picture was taken.
    """

    slot: int
    index: int
    name: str
    height: int
    width: int
    encoded_bytes: int
    captured_s: float
    captured_mono_s: float
    position_s: float | None
    dropped: int
    stats: FrameStats
    marker: str = ""
    slept_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """A picture of the source cannot be used; the source goes on."""

    index: int
    name: str
    problem: str


@dataclass(frozen=True, slots=True)
class EndMessage:
    """The source is finished."""


@dataclass(frozen=True, slots=True)
class FailureMessage:
    """The source cannot be opened or gives no more pictures; `fatal` when trying again cannot help."""

    problem: str
    fatal: bool


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
    """Something other than a frame, in the agent's hands.

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


CaptureMessage = FrameMessage | RefusedMessage | EndMessage | FailureMessage
_RARE: dict[str, type[RefusedMessage | EndMessage | FailureMessage]] = {
    "refused": RefusedMessage,
    "end": EndMessage,
    "failure": FailureMessage,
}
_RARE_NAMES = {kind: name for name, kind in _RARE.items()}
_FRAME_MARK = b"F"
_MAX_PROBLEM = 1000
SLOT = struct.Struct("<Bd")
"""What the agent says with a slot that it hands over: its number, and before which monotonic second no picture of a
live camera is wanted."""
# slot, index, height, width, encoded_bytes, captured_s, captured_mono_s, slept_s, position_s, dropped, the five stats
_FRAME = struct.Struct("<BqIIIddddqdddId")


def encode_message(message: CaptureMessage) -> bytes:
    """Write a message for the pipe: a frame packed, since there is one per picture, anything else as JSON.

    Args:
        message: Any of the four.

    Returns:
        At most `MAX_MESSAGE_BYTES`.
    """
    if not isinstance(message, FrameMessage):
        fields = {"kind": _RARE_NAMES[type(message)], **asdict(message)}
        if "problem" in fields:
            fields["problem"] = str(fields["problem"])[:_MAX_PROBLEM]
        return json.dumps(fields).encode()
    stats = message.stats
    packed = _FRAME.pack(
        message.slot,
        message.index,
        message.height,
        message.width,
        message.encoded_bytes,
        message.captured_s,
        message.captured_mono_s,
        message.slept_s,
        math.nan if message.position_s is None else message.position_s,
        message.dropped,
        stats.brightness,
        stats.sharpness,
        stats.motion,
        stats.checksum,
        stats.flat_tail,
    )
    return _FRAME_MARK + packed + f"{message.name}\0{message.marker}".encode()


def decode_message(data: bytes) -> CaptureMessage:
    """Read a message from the pipe.

    Args:
        data: From `encode_message`.

    Returns:
        The message.

    Raises:
        CameraError: It is no such message.
    """
    try:
        if data.startswith(_FRAME_MARK):
            return _frame_message(data)
        fields = json.loads(data)
        return _RARE[fields.pop("kind")](**fields)
    except (ValueError, KeyError, TypeError, struct.error) as exc:
        raise CameraError("the capture process sent something unreadable", got=repr(data[:80])) from exc


def _frame_message(data: bytes) -> FrameMessage:
    fields = _FRAME.unpack_from(data, len(_FRAME_MARK))
    slot, index, height, width, encoded_bytes, captured_s, mono_s, slept_s, position_s, dropped, *stats = fields
    name, _, marker = data[len(_FRAME_MARK) + _FRAME.size :].decode().partition("\0")
    return FrameMessage(
        slot=slot,
        index=index,
        name=name,
        height=height,
        width=width,
        encoded_bytes=encoded_bytes,
        captured_s=captured_s,
        captured_mono_s=mono_s,
        position_s=None if math.isnan(position_s) else position_s,
        dropped=dropped,
        stats=FrameStats(*stats),
        marker=marker,
        slept_s=slept_s,
    )
