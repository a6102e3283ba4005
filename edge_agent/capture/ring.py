"""The memory by which pictures cross from the capture process to the agent.

It is an anonymous file (memfd) that both processes map. It has no name, so nothing is left behind however either
process dies, and its pages exist only once they are written, so a slot may be sized for the largest allowed picture.
A slot belongs to one side at a time: the agent hands a slot's number over the pipe (a token), the capture process fills
it and hands it back inside a message. Pictures are never pickled.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.errors import CameraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.capture.frames import FrameMessage

_HEADER = struct.Struct("<q")
_PAGE = mmap.PAGESIZE
_RELEASE_ABOVE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class RingShape:
    """Size of the shared memory.

    Each slot holds three things side by side: the picture, the picture at the network's size, the undecoded file.

    Attributes:
        slots: How many.
        max_pixels: Of a picture.
        network_wh: Width and height of the network's input.
        max_encoded_bytes: Of a file.
    """

    slots: int
    max_pixels: int
    network_wh: tuple[int, int]
    max_encoded_bytes: int

    @property
    def pixel_bytes(self) -> int:
        """Room for pixels in a slot, whole pages."""
        return -(-self.max_pixels * 3 // _PAGE) * _PAGE

    @property
    def network_bytes(self) -> int:
        """Room for the network's picture in a slot, whole pages."""
        return -(-self.network_wh[0] * self.network_wh[1] * 3 // _PAGE) * _PAGE

    @property
    def slot_bytes(self) -> int:
        """Room of a slot, whole pages."""
        return self.pixel_bytes + self.network_bytes + -(-self.max_encoded_bytes // _PAGE) * _PAGE

    @property
    def total_bytes(self) -> int:
        """The cursor's page and all slots."""
        return _PAGE + self.slots * self.slot_bytes


class FrameRing:
    """The shared memory, mapped by one process.

    Args:
        descriptor: Of the anonymous file; the ring closes it.
        shape: Agreed between both sides.
    """

    def __init__(self, descriptor: int, shape: RingShape) -> None:
        self.descriptor = descriptor
        self.shape = shape
        self._map = mmap.mmap(descriptor, shape.total_bytes)

    @classmethod
    def create(cls, shape: RingShape) -> FrameRing:
        """Make the memory; no page of it exists before it is written.

        Args:
            shape: How large.

        Returns:
            The ring of the agent's side.
        """
        descriptor = os.memfd_create("bintally-frames")
        os.ftruncate(descriptor, shape.total_bytes)
        return cls(descriptor, shape)

    @property
    def cursor(self) -> int:
        """Index of the picture that the capture process works on, readable after its death."""
        return int(_HEADER.unpack_from(self._map, 0)[0])

    @cursor.setter
    def cursor(self, index: int) -> None:
        _HEADER.pack_into(self._map, 0, index)

    def write(self, slot: int, image_bgr: NDArray[np.uint8], network_bgr: NDArray[np.uint8], encoded: bytes) -> None:
        """Fill a slot that this side owns.

        Args:
            slot: Its number.
            image_bgr: uint8, (H, W, 3), BGR, at most `max_pixels`.
            network_bgr: uint8, (h, w, 3), BGR, of the network's size.
            encoded: The undecoded file, or nothing.

        Raises:
            CameraError: The picture does not fit.
        """
        if image_bgr.nbytes > self.shape.max_pixels * 3 or len(encoded) > self.shape.max_encoded_bytes:
            raise CameraError(
                "a picture is larger than the camera's max_pixels",
                got=f"{image_bgr.shape[1]}x{image_bgr.shape[0]}",
                expected=f"at most {self.shape.max_pixels} pixels",
                fix="Raise cameras.max_pixels, or lower the camera's resolution.",
            )
        start = _PAGE + slot * self.shape.slot_bytes
        np.frombuffer(self._map, np.uint8, image_bgr.size, start).reshape(image_bgr.shape)[...] = image_bgr
        begin = start + self.shape.pixel_bytes
        np.frombuffer(self._map, np.uint8, network_bgr.size, begin).reshape(network_bgr.shape)[...] = network_bgr
        begin += self.shape.network_bytes
        self._map[begin : begin + len(encoded)] = encoded

    def image(self, message: FrameMessage) -> NDArray[np.uint8]:
        """Look at the picture of a message without copying it.

        Args:
            message: Whose slot this side owns.

        Returns:
            uint8, (H, W, 3), BGR, 0..255: a view that is valid until the slot is handed back.
        """
        start = _PAGE + message.slot * self.shape.slot_bytes
        pixels = np.frombuffer(self._map, np.uint8, message.height * message.width * 3, start)
        return pixels.reshape(message.height, message.width, 3)

    def network_image(self, message: FrameMessage) -> NDArray[np.uint8]:
        """Look at the picture at the network's size.

        Args:
            message: Whose slot this side owns.

        Returns:
            uint8, (h, w, 3), BGR, 0..255: a view that is valid until the slot is handed back.
        """
        width, height = self.shape.network_wh
        start = _PAGE + message.slot * self.shape.slot_bytes + self.shape.pixel_bytes
        return np.frombuffer(self._map, np.uint8, width * height * 3, start).reshape(height, width, 3)

    def encoded(self, message: FrameMessage) -> bytes:
        """Copy the undecoded file of a message.

        Args:
            message: Whose slot this side owns.

        Returns:
            The file's bytes, empty when the source has none.
        """
        start = _PAGE + message.slot * self.shape.slot_bytes + self.shape.pixel_bytes + self.shape.network_bytes
        return self._map[start : start + message.encoded_bytes]

    def forget(self, message: FrameMessage) -> None:
        """Give the memory of a very large picture back to the system, so that one photo does not cost for ever.

        Args:
            message: Whose slot is about to be handed back.
        """
        if message.height * message.width * 3 + message.encoded_bytes > _RELEASE_ABOVE_BYTES:
            start = _PAGE + message.slot * self.shape.slot_bytes
            self._map.madvise(mmap.MADV_REMOVE, start, self.shape.slot_bytes)

    def close(self) -> None:
        """Unmap, unless a picture is still looked at; its owner then keeps the memory until it lets go."""
        os.close(self.descriptor)
        try:
            self._map.close()
        except BufferError:
            return
