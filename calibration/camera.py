"""Makes a camera's profile: lens from shots of a board, region, exposure and reference view from pictures of bins.

Nothing is written that has not passed the gate. A profile is signed off by a person who has looked at the preview; an
unsigned one says so.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle import images
from bundle.camera import CameraProfile, Exposure, Rectifier, ReferenceView, SignOff, rectified_wh
from bundle.errors import InputError
from bundle.moved import EdgeView, align, has_moved, steadiness
from calibration.boards import find_corners
from calibration.lens import fit_lens
from calibration.region import region_from_fiducials, region_from_frame, region_from_points

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray

    from bundle.camera import Lens, Region
    from bundle.moved import Motion
    from calibration.boards import BoardSpec
    from calibration.lens import LensFit

MAX_PHOTOS = 200
_DARK, _BRIGHT = 25.0, 230.0
_CLIPPED_LEVEL, _MAX_CLIPPED = 250, 0.2
_WHITE_PERCENTILE = 90
_NEUTRAL = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Request:
    """What a person decides about a camera calibration.

    Attributes:
        camera: Name of the camera.
        region: How the bin's opening is found; "none" keeps the whole picture.
        corners_px: For "points": float64 (4, 2), in the camera's own picture.
        white_balance: Make the board's white squares white.
        signed_off_by: Who looked at the preview, or None.
    """

    camera: str
    region: Literal["points", "fiducials", "frame", "none"]
    corners_px: NDArray[np.float64] | None = None
    white_balance: bool = False
    signed_off_by: str | None = None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A profile with what was measured on the way.

    Attributes:
        profile: The profile.
        lens_fit: None without shots of a board.
        unseen_boards: Shots on which the board was not found.
        preview_bgr: uint8, (H, W, 3): the first picture as it was, and rectified.
    """

    profile: CameraProfile
    lens_fit: LensFit | None
    unseen_boards: tuple[str, ...]
    preview_bgr: NDArray[np.uint8]


def read_photos(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Read the pictures of a folder.

    Args:
        folder: Of JPEG and PNG files; at most 200 are read, evenly spread.

    Returns:
        uint8, (H, W, 3), BGR, by file name; all of one size.

    Raises:
        InputError: There are none, one cannot be read, or their sizes differ.
    """
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in images.PHOTO_SUFFIXES)
    except OSError as exc:
        raise InputError(f"{folder} cannot be read", got=exc.strerror, fix="Name a folder of pictures.") from exc
    if not files:
        raise InputError(f"folder {folder} holds no pictures", expected=".jpg, .jpeg or .png")
    step = -(-len(files) // MAX_PHOTOS)
    photos = {file.name: images.read(file) for file in files[::step]}
    sizes = {photo.shape[1::-1] for photo in photos.values()}
    if len(sizes) > 1:
        raise InputError(
            f"the pictures of {folder} differ in size",
            got=", ".join(f"{width}x{height}" for width, height in sorted(sizes)),
            fix="A profile is for one camera at one resolution.",
        )
    return photos


def calibrate_camera(
    shots: Mapping[str, NDArray[np.uint8]] | None,
    views: Mapping[str, NDArray[np.uint8]],
    board: BoardSpec,
    request: Request,
    *,
    now: datetime,
) -> Calibrated:
    """Measure a camera.

    Args:
        shots: Pictures of the board by name; None leaves the lens alone.
        views: Pictures of bins in normal work by name, of one size.
        board: What the shots show.
        request: What a person decides.
        now: Aware UTC time.

    Returns:
        The profile, past the quality gate.

    Raises:
        InputError: Something is not good enough; the message says what to do.
    """
    frames = list(views.values())
    frame_wh = (frames[0].shape[1], frames[0].shape[0])
    fit, unseen, white = (None, (), _NEUTRAL) if shots is None else _lens(shots, board, frame_wh)
    lens = None if fit is None else fit.lens
    region = _region(request, frames, frame_wh, lens)
    signed = None if request.signed_off_by is None else SignOff(by=request.signed_off_by, at=now)
    bare = CameraProfile(
        camera=request.camera, created=now, signed_off=signed, frame_wh=frame_wh, lens=lens, region=region
    )
    rectifier = Rectifier(bare)
    exposure = _exposure([rectifier.apply(frame) for frame in frames], white if request.white_balance else _NEUTRAL)
    profile = bare.model_copy(update={"exposure": exposure, "view": reference_view(bare, frames)})
    return Calibrated(profile, fit, unseen, _preview(frames[0], profile))


def _lens(
    shots: Mapping[str, NDArray[np.uint8]], board: BoardSpec, frame_wh: tuple[int, int]
) -> tuple[LensFit, tuple[str, ...], tuple[float, float, float]]:
    sizes = {shot.shape[1::-1] for shot in shots.values()}
    if sizes != {frame_wh}:
        raise InputError(
            "the shots of the board have another size than the pictures of bins",
            got=sorted(sizes),
            expected=frame_wh,
            fix="Take both with the camera as it will run.",
        )
    found = {name: find_corners(shot, board) for name, shot in shots.items()}
    corners = {name: one for name, one in found.items() if one is not None}
    whites = [_white(shots[name], one.image_px) for name, one in corners.items()]
    fit = fit_lens(corners, frame_wh)
    return fit, tuple(name for name, one in found.items() if one is None), _gains(np.median(whites, axis=0))


def _white(shot: NDArray[np.uint8], corners_px: NDArray[np.float32]) -> NDArray[np.float64]:
    """Level of the board's white squares: float64, (3,), BGR."""
    mask = np.zeros(shot.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(corners_px).astype(np.int32)), 255)
    return np.asarray(np.percentile(shot[mask > 0], _WHITE_PERCENTILE, axis=0))


def _gains(white_bgr: NDArray[np.float64]) -> tuple[float, float, float]:
    if white_bgr.max() >= _CLIPPED_LEVEL or white_bgr.min() < _DARK:
        return _NEUTRAL  # overexposed or black squares say nothing about colour
    blue, green, red = (float(level) for level in white_bgr)
    return (min(max(green / blue, 0.25), 4.0), 1.0, min(max(green / red, 0.25), 4.0))


def _region(
    request: Request, frames: Sequence[NDArray[np.uint8]], frame_wh: tuple[int, int], lens: Lens | None
) -> Region | None:
    if request.region == "none":
        return None
    if request.region == "fiducials":
        return region_from_fiducials(frames, lens)
    if request.region == "frame":
        return region_from_frame(frames, lens)
    if request.corners_px is None:
        raise InputError("the region's corners are missing", fix="Give --corners, or another --region.")
    return region_from_points(request.corners_px, frame_wh, lens)


def _exposure(rectified: Sequence[NDArray[np.uint8]], gains: tuple[float, float, float]) -> Exposure:
    mean = np.mean([frame.reshape(-1, 3).mean(axis=0) for frame in rectified], axis=0)
    clipped = float(np.mean([(frame.min(axis=2) >= _CLIPPED_LEVEL).mean() for frame in rectified]))
    if not _DARK <= mean.mean() <= _BRIGHT or clipped > _MAX_CLIPPED:
        raise InputError(
            "the pictures of bins are not well exposed",
            got=f"mean level {mean.mean():.0f}, {clipped:.0%} of the pixels white",
            expected=f"a mean of {_DARK:.0f} to {_BRIGHT:.0f}, at most {_MAX_CLIPPED:.0%} white",
            fix="Set the camera's exposure and light as they will be, then take the pictures again.",
        )
    blue, green, red = (round(float(level), 2) for level in mean)
    return Exposure(mean_bgr=(blue, green, red), gains_bgr=gains)


def reference_view(profile: CameraProfile, frames: Sequence[NDArray[np.uint8]]) -> ReferenceView:
    """Describe what stays the same in pictures of bins.

    Args:
        profile: Says where to look.
        frames: Each uint8, (H, W, 3), BGR, of the profile's size; at least one.

    Returns:
        The reference view.
    """
    finder = EdgeView(profile)
    edges = [finder.edges(frame) for frame in frames]
    mean, weights = np.mean(edges, axis=0), steadiness(edges) * finder.inside
    noise = 0.0
    if len(edges) > 1:
        first, second = (np.asarray(np.mean(part, axis=0), np.float32) for part in (edges[::2], edges[1::2]))
        noise = align(first, weights, second, finder.pixels_per_cell).corner_px
    return ReferenceView(
        edges=_encoded(mean),
        weights=_encoded(weights * 255),
        noise_px=round(noise, 3),
        frames=len(edges),
    )


def _encoded(levels: NDArray[np.float32]) -> bytes:
    # The type decodes what it is given, so it is given what would stand in the file.
    return base64.urlsafe_b64encode(np.clip(np.rint(levels), 0, 255).astype(np.uint8).tobytes())


@dataclass(frozen=True, slots=True)
class Comparison:
    """How pictures lie against a profile.

    Attributes:
        motion: What was measured.
        moved: Whether that is more than noise, and matters.
    """

    motion: Motion
    moved: bool


def compare_views(profile: CameraProfile, frames: Sequence[NDArray[np.uint8]]) -> Comparison:
    """Hold new pictures against a profile's reference view.

    Args:
        profile: Of the camera.
        frames: Each uint8, (H, W, 3), BGR, of the profile's size; at least one.

    Returns:
        The comparison.

    Raises:
        InputError: The profile has no reference view, or the size differs.
    """
    if profile.view is None:
        raise InputError(f"the profile of camera {profile.camera} has no reference view", fix="Calibrate it again.")
    finder = EdgeView(profile)
    edges, weights = profile.view.maps()
    mean = np.asarray(np.mean([finder.edges(frame) for frame in frames], axis=0), np.float32)
    motion = align(edges, weights, mean, finder.pixels_per_cell)
    return Comparison(motion, has_moved(motion, profile.view, rectified_wh(profile)[0]))


def _preview(frame: NDArray[np.uint8], profile: CameraProfile) -> NDArray[np.uint8]:
    """The picture with the region drawn in, and beside it what the network will get to see."""
    left = frame.copy()
    if profile.region is not None:
        corners = np.rint(np.array(profile.region.corners_px)).astype(np.int32)
        cv2.polylines(left, [corners], isClosed=True, color=(60, 220, 60), thickness=max(1, frame.shape[1] // 400))
    right = Rectifier(profile).apply(frame)
    scale = left.shape[0] / right.shape[0]
    right = np.asarray(cv2.resize(right, (round(right.shape[1] * scale), left.shape[0])), np.uint8)
    return np.concatenate([left, right], axis=1)
