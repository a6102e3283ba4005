"""What a capture process is told to do, and the source that it opens for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundle.camera import CameraProfile, Rectifier
from bundle.images import MAX_BYTES
from bundle.manifest import Preprocessing
from edge_agent.capture.live import CameraSource
from edge_agent.capture.markers import MarkerKind, MarkerReader
from edge_agent.capture.ring import RingShape
from edge_agent.capture.snapshot import SCHEME, SnapshotSource
from edge_agent.capture.sources import FolderSource, VideoSource, source_kind

if TYPE_CHECKING:
    from edge_agent.capture.sources import Source
    from edge_agent.config import CameraSection

_SNAPSHOT_FPS = 1.0


@dataclass(frozen=True, slots=True)
class CaptureOrder:
    """What a capture process is told first, over the pipe: a command line would show a camera's password to everybody.

    Attributes:
        source: As in the configuration, paths absolute.
        start: First picture to read.
        slots: Of the shared memory.
        max_pixels: Larger pictures are refused.
        repeat: Start again at the end.
        pause_s: Between photos.
        width: Asked of a camera.
        height: Asked of a camera.
        fps: Asked of a camera.
        look_fps: Pictures of a camera that are decoded in a second, at most.
        preprocessing: Of the bundle, as its manifest writes it.
        marker: What is printed on the bins, None when nobody wants to know.
        marker_dictionary: Of ArUco markers.
        profile: Of the camera, without its view, as its file writes it; None leaves pictures as they are.
    """

    source: int | str
    start: int
    slots: int
    max_pixels: int
    preprocessing: dict[str, Any]
    repeat: bool = False
    pause_s: float = 0.0
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    look_fps: float = 10.0
    marker: MarkerKind | None = None
    marker_dictionary: str = ""
    profile: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, settings: CameraSection, preprocessing: Preprocessing, profile: CameraProfile | None, *, slots: int
    ) -> CaptureOrder:
        """Write the order for a camera, from its first picture on.

        Args:
            settings: Of the camera.
            preprocessing: Of the bundle.
            profile: Of the camera; its view is the agent's.
            slots: Of the shared memory.

        Returns:
            The order.
        """
        return cls(
            source=settings.source,
            start=0,
            slots=slots,
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

    @property
    def reader(self) -> MarkerReader | None:
        """What reads labels, if they are wanted."""
        return None if self.marker is None else MarkerReader(self.marker, self.marker_dictionary)

    @property
    def rectifier(self) -> Rectifier | None:
        """What undistorts and rectifies pictures, if there is a profile."""
        return None if self.profile is None else Rectifier(CameraProfile.model_validate(self.profile))

    @property
    def shape(self) -> RingShape:
        """Size of the shared memory that both sides agree on."""
        return RingShape(self.slots, self.max_pixels, self.spec.size_wh, MAX_BYTES)

    @property
    def spec(self) -> Preprocessing:
        """The bundle's preprocessing."""
        return Preprocessing.model_validate(self.preprocessing)


def open_source(order: CaptureOrder) -> Source:
    """Choose the source for an order.

    Args:
        order: From the agent.

    Returns:
        The source, not yet opened.

    Raises:
        InputError: There is nothing at that path.
        ConfigError: The address is none.
    """
    kind = source_kind(order.source)
    if kind == "camera":
        if str(order.source).startswith(SCHEME):
            return SnapshotSource(
                str(order.source), max_pixels=order.max_pixels, pause_s=1.0 / (order.fps or _SNAPSHOT_FPS)
            )
        return CameraSource(order.source, size_wh=(order.width, order.height), fps=order.fps, look_fps=order.look_fps)
    path = Path(str(order.source))
    if kind == "video":
        return VideoSource(path, repeat=order.repeat)
    profile = None if order.profile is None else CameraProfile.model_validate(order.profile)
    return FolderSource(path, max_pixels=order.max_pixels, repeat=order.repeat, pause_s=order.pause_s, profile=profile)
