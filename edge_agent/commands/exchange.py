"""Between the threads that carry commands out and the agent's loop, which alone may change what it counts with.

A new counter, new settings and a wish for a picture are left here; the loop takes them when it comes by. Whoever leaves
something waits for at most a given time.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from bundle.counter import Counter
    from edge_agent.capture.camera import Camera
    from edge_agent.capture.frames import Frame
    from edge_agent.tuning import Tuning


@dataclass(slots=True)
class Picture:
    """A frame for a person to look at.

    Attributes:
        camera: Which camera shall give it.
        image_bgr: uint8, (H, W, 3), BGR, 0..255; None until it is there.
        captured_s: Wall clock of the frame.
        there: Set with the other two.
    """

    camera: str
    image_bgr: NDArray[np.uint8] | None = None
    captured_s: float = 0.0
    there: threading.Event = field(default_factory=threading.Event)


class Exchange:
    """Orders to the agent's loop.

    Attributes:
        on_counter: Counts with another counter; set and called by the loop.
        on_tuning: Puts settings into force; set and called by the loop.
        hide: Takes out of a camera's picture what may not leave the robot.
    """

    def __init__(self) -> None:
        self.on_counter: Callable[[Counter], None] = lambda _: None
        self.on_tuning: Callable[[Tuning], None] = lambda _: None
        self.hide: Callable[[str, NDArray[np.uint8]], NDArray[np.uint8]] = lambda _, image: image.copy()
        self._lock = threading.Lock()
        self._counter: tuple[Counter, threading.Event] | None = None
        self._tuning: Tuning | None = None
        self._pictures: list[Picture] = []

    # The commands' side.

    def swap(self, counter: Counter, timeout_s: float) -> bool:
        """Count with another counter from the next visit on.

        Args:
            counter: The new one.
            timeout_s: How long to wait for the loop.

        Returns:
            False when the loop did not take it: it is still the caller's.
        """
        taken = threading.Event()
        with self._lock:
            self._counter = counter, taken
        if taken.wait(timeout_s):
            return True
        # When it is not there any more, the loop has just begun to take it.
        return self._left() is None and taken.wait(timeout_s)

    def _left(self) -> tuple[Counter, threading.Event] | None:
        with self._lock:
            left, self._counter = self._counter, None
        return left

    def tune(self, tuning: Tuning) -> None:
        """Put settings into force before the next frame."""
        with self._lock:
            self._tuning = tuning

    def picture(self, camera: str) -> Picture:
        """Ask for the next frame of a camera.

        Args:
            camera: Its name.

        Returns:
            What to wait for; `forget` ends the wish.
        """
        wish = Picture(camera)
        with self._lock:
            self._pictures.append(wish)
        return wish

    def forget(self, wish: Picture) -> None:
        """Do without a picture."""
        with self._lock:
            if wish in self._pictures:
                self._pictures.remove(wish)

    # The loop's side.

    def serve(self) -> None:
        """Do what was left here. Call it between two frames."""
        if self._counter is None and self._tuning is None:
            return
        with self._lock:
            tuning, self._tuning = self._tuning, None
        left = self._left()
        if left is not None:
            counter, taken = left
            self.on_counter(counter)
            taken.set()
        if tuning is not None:
            self.on_tuning(tuning)

    def show(self, camera: Camera, frame: Frame) -> None:
        """Give a frame to whoever asked for one.

        Args:
            camera: Where it came from.
            frame: Not yet released; its pixels are copied.
        """
        if not self._pictures:
            return
        with self._lock:
            wanted = [wish for wish in self._pictures if wish.camera == frame.camera]
            self._pictures = [wish for wish in self._pictures if wish.camera != frame.camera]
        for wish in wanted:
            wish.image_bgr, wish.captured_s = (
                self.hide(camera.name, camera.rectified(frame.image_bgr)),
                frame.message.captured_s,
            )
            wish.there.set()
