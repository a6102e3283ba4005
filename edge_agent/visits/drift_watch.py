"""Does what the cameras see still look like what the bundle was calibrated on? Joins `bundle.drift` to the frame's way.

The first usable frame of a visit stands for how it looks, all of them for what the network makes of it. Every camera
has a monitor of its own, of fixed size. Without a reference in the bundle nothing is watched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bundle.drift import DriftMonitor, parse_reference
from bundle.signals import answer_signals, frame_signals, look

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.counter import Count
    from bundle.drift import DriftEvent
    from bundle.signals import Look
    from bundle.verify import Bundle


@dataclass(slots=True)
class _Watched:
    monitor: DriftMonitor
    first: Look | None = None
    logits: list[NDArray[np.float32]] = field(default_factory=list)


class DriftWatch:
    """Watches the visits of several cameras. Belongs to one thread.

    Args:
        bundle: That counts.

    Raises:
        BundleError: Its drift reference cannot be read.
    """

    def __init__(self, bundle: Bundle) -> None:
        name = bundle.manifest.drift
        self._reference = None if name is None else parse_reference(bundle.read(name), name=name)
        self._view = None if self._reference is None else self._reference.view_array()
        self._cameras: dict[str, _Watched] = {}

    def frame(self, camera: str, picture_bgr: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """Take a usable frame of the open visit into account.

        Args:
            camera: Its name.
            picture_bgr: uint8, (h, w, 3), BGR, at the network's size; not kept.
            logits: float32, (K,).
        """
        if self._reference is None:
            return
        watched = self._cameras.setdefault(camera, _Watched(DriftMonitor(self._reference)))
        watched.first = watched.first or look(picture_bgr)
        watched.logits.append(logits)

    def visit(self, camera: str, count: Count) -> DriftEvent | None:
        """Close a visit that was counted.

        Args:
            camera: Its name.
            count: Of the visit.

        Returns:
            What has to be told, if anything.
        """
        watched = self._cameras.get(camera)
        if watched is None or watched.first is None or self._view is None:
            return None
        answer = answer_signals(np.stack(watched.logits), np.asarray(count.posterior), confident=count.confident)
        seen = np.concatenate([frame_signals([watched.first], self._view), answer])
        self.forget(camera)
        return watched.monitor.update(seen)

    def forget(self, camera: str) -> None:
        """Forget the frames of the open visit.

        Args:
            camera: Its name.
        """
        watched = self._cameras.get(camera)
        if watched is not None:
            watched.first, watched.logits = None, []
