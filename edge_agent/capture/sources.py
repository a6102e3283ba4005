"""Where pictures come from, inside the capture process: what a source is, and the files. Cameras: `live`, `snapshot`.

Sources touch OpenCV and the file system, nobody else in the agent does. A source yields pictures, or says of one item
that it cannot be used; it raises InputError when it can never work, CameraError when trying again may help.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import cv2
import numpy as np

from bundle.camera import require_size
from bundle.errors import InputError
from bundle.images import PHOTO_SUFFIXES, decode, read_bytes
from edge_agent.machine import slept_s
from edge_agent.masking import shown_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from bundle.camera import CameraProfile

SourceKind = Literal["folder", "video", "camera"]

_TEXT_CODEC = cv2.VideoWriter.fourcc(*"ansi")
"""FFmpeg plays a text file as a film of a terminal."""
_WHOLE_SHARE = 0.9
"""A video that gives fewer of its frames is broken off; counts in a container's header are off by a few."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture.

    Attributes:
        index: Its number in the source, from 0.
        name: File name, or the number of the frame.
        image_bgr: uint8, (H, W, 3), BGR, 0..255.
        encoded: The file it came from, empty for video.
        captured_s: Wall clock when it was read, seconds since 1970 UTC.
        captured_mono_s: Monotonic clock when it was read.
        position_s: Time inside a video file.
        slept_s: How long the machine had been suspended since its start.
    """

    index: int
    name: str
    image_bgr: NDArray[np.uint8]
    encoded: bytes
    captured_s: float
    captured_mono_s: float
    position_s: float | None = None
    slept_s: float = field(default_factory=slept_s)


@dataclass(frozen=True, slots=True)
class Unusable:
    """One item of a source that cannot be counted, and why."""

    index: int
    name: str
    problem: str


class Source(Protocol):
    """Anything that yields pictures.

    Attributes:
        live: Pictures come at their own pace: the newest wins. Otherwise the source waits for its reader.
        wanted_s: Before this monotonic second no picture is wanted; set by the reader of a live source, at any time.
    """

    live: bool
    wanted_s: float

    def read(self, start: int, mark: Callable[[int], None]) -> Iterator[Picture | Unusable]:
        """Yield pictures from number `start` on.

        Args:
            start: First number to read; a live source ignores it.
            mark: Called with a number before its picture is touched, so that a picture that kills the process is known.

        Raises:
            InputError: It can never work.
            CameraError: Trying again may help.
        """
        ...


def source_kind(source: int | str) -> SourceKind:
    """Tell what a configured source is.

    Args:
        source: As in the configuration, paths absolute.

    Returns:
        Its kind.

    Raises:
        InputError: Nothing is there.
    """
    if isinstance(source, int) or "://" in source:
        return "camera"
    path = Path(source)
    if path.is_dir():
        return "folder"
    if path.is_file():
        return "video"
    if source.startswith("/dev/"):
        return "camera"
    raise InputError(
        f"source {shown_source(source)} does not exist",
        expected="a folder of photos, a video file, a camera index, a device or an address",
        fix="Correct cameras.source in the configuration.",
    )


class FolderSource:
    """The photos of a folder in the order of their names. Subfolders are not read.

    Args:
        folder: The folder.
        max_pixels: Larger pictures are refused before they are decoded.
        repeat: Start again at the end; a photo that cannot be used is named once.
        pause_s: Wait this long before each photo but the first.
        profile: A photo that it does not fit cannot be used; None lets sizes differ.
    """

    live = False
    wanted_s = 0.0

    def __init__(
        self,
        folder: Path,
        *,
        max_pixels: int,
        repeat: bool = False,
        pause_s: float = 0.0,
        profile: CameraProfile | None = None,
    ) -> None:
        self._folder = folder
        self._max_pixels = max_pixels
        self._repeat = repeat
        self._pause_s = pause_s
        self._profile = profile

    def read(self, start: int, mark: Callable[[int], None]) -> Iterator[Picture | Unusable]:
        """Yield the photos; see `Source.read`."""
        names = photo_names(self._folder)
        unusable: set[str] = set()
        index = start
        while self._repeat or index < len(names):
            name = names[index % len(names)]
            if name not in unusable:
                if index > start and self._pause_s:
                    time.sleep(self._pause_s)
                mark(index)
                item = self._photo(index, name)
                yield item
                if isinstance(item, Unusable):
                    unusable.add(name)
            elif len(unusable) == len(names):
                raise InputError(f"folder {self._folder} holds no usable photo", fix="Name another folder.")
            index += 1

    def _photo(self, index: int, name: str) -> Picture | Unusable:
        captured_s, captured_mono_s = time.time(), time.monotonic()
        shown = _readable(name)
        try:
            data = read_bytes(self._folder / name)
            image = decode(data, name=shown, max_pixels=self._max_pixels)
            if self._profile is not None:
                require_size(image, self._profile)
        except InputError as exc:
            return Unusable(index, shown, _readable(str(exc)))
        return Picture(index, shown, image, data, captured_s, captured_mono_s)


def _readable(text: str) -> str:
    """Replace what a file name holds that is no UTF-8, and no message could carry."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def photo_names(folder: Path) -> list[str]:
    """List the photos of a folder, sorted.

    Args:
        folder: The folder.

    Returns:
        File names with a photo's suffix; never empty.

    Raises:
        InputError: The folder cannot be read or holds no photo.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if Path(e.name).suffix.lower() in PHOTO_SUFFIXES and _is_file(e))
    except OSError as exc:
        raise InputError(f"folder {folder} cannot be read", got=exc.strerror, fix="Check the path.") from exc
    if not names:
        raise InputError(f"folder {folder} holds no photos", expected=".jpg, .jpeg or .png", fix="Name another folder.")
    return names


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether there is a file, behind links too; what cannot be followed (a link to itself) is none."""
    return entry.is_file(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_file())


class VideoSource:
    """The frames of a video file, each one.

    Args:
        file: The file.
        repeat: Start again at the end.
    """

    live = False
    wanted_s = 0.0

    def __init__(self, file: Path, *, repeat: bool = False) -> None:
        self._file = file
        self._repeat = repeat
        self._promised = 0

    def read(self, start: int, mark: Callable[[int], None]) -> Iterator[Picture | Unusable]:
        """Yield the frames, and say of a file that breaks off that it does; see `Source.read`."""
        index, offset_s = 0, 0.0
        while True:
            position_s, before = 0.0, index
            for image, position_s in self._play():
                if index >= start:
                    mark(index)
                    now = time.time(), time.monotonic()
                    yield Picture(index, f"frame-{index:06d}", image, b"", *now, offset_s + position_s)
                index += 1
            if index == before:
                raise InputError(
                    f"video {self._file} has no readable frame", fix="Name another file, or convert it to H.264."
                )
            played = index - before
            if before == 0 and played < _WHOLE_SHARE * self._promised:
                if index >= start:
                    problem = f"video {self._file} breaks off after {played} of about {self._promised} frames"
                    yield Unusable(index, f"frame-{index:06d}", f"{problem}. Copy the file again.")
                index += 1
            if not self._repeat:
                return
            offset_s += position_s

    def _play(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        video = cv2.VideoCapture(str(self._file))
        self._promised = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        try:
            while video.get(cv2.CAP_PROP_FOURCC) != _TEXT_CODEC:
                done, image = video.read()
                if not done:
                    return
                yield np.asarray(image, dtype=np.uint8), video.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        finally:
            video.release()


def check_video(file: Path) -> None:
    """Make sure that a file is a video that can be played.

    Args:
        file: The file.

    Raises:
        InputError: It gives no frame.
    """
    next(VideoSource(file).read(0, lambda _: None))
