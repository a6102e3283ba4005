"""A camera's profile: lens, bin region, exposure and reference view, and the one remap that applies them.

`bintally calibrate camera` writes the profile and a person signs it off; the agent applies it before preprocessing.
Undistortion and rectification are one table, computed once: no picture is resampled twice. Pixel centres lie at whole
numbers, as in OpenCV; corners are those of the bin's opening in the camera's own, distorted picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import cv2
import numpy as np
from pydantic import AwareDatetime, Base64UrlBytes, BaseModel, ConfigDict, Field, ValidationError, model_validator

from bundle import images
from bundle.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

VIEW_WH = (96, 72)
"""Size of the reference view, pixels."""
_MAX_PROFILE_BYTES = 1 << 20
_MAX_SIDE_PX = 16_384
_NEUTRAL = (1.0, 1.0, 1.0)

Side = Annotated[int, Field(ge=16, le=_MAX_SIDE_PX)]
Point = tuple[float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lens(_Strict):
    """A pinhole with distortion, as OpenCV defines it.

    Attributes:
        fx: Focal length in pixels, horizontally.
        fy: Focal length in pixels, vertically.
        cx: Principal point, pixels.
        cy: Principal point, pixels.
        distortion: k1, k2, p1, p2, k3.
        rms_px: Reprojection error of the shots it was fitted to.
        shots: How many of them.
        coverage: Share of the picture's cells in which a shot had a corner.
    """

    fx: Annotated[float, Field(gt=0)]
    fy: Annotated[float, Field(gt=0)]
    cx: float
    cy: float
    distortion: tuple[float, float, float, float, float]
    rms_px: Annotated[float, Field(ge=0)]
    shots: Annotated[int, Field(ge=1)]
    coverage: Annotated[float, Field(ge=0, le=1)]

    def matrix(self) -> NDArray[np.float64]:
        """The camera matrix.

        Returns:
            float64, (3, 3).
        """
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def distort(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where undistorted directions land in the camera's picture.

        Args:
            points: float64, (..., 2), pixels of an ideal pinhole with this matrix.

        Returns:
            float64, (..., 2), pixels of the camera's picture.
        """
        x, y = (points[..., 0] - self.cx) / self.fx, (points[..., 1] - self.cy) / self.fy
        k1, k2, p1, p2, k3 = self.distortion
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        moved_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        moved_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return np.stack([moved_x * self.fx + self.cx, moved_y * self.fy + self.cy], axis=-1)

    def undistort(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `distort`.

        Args:
            points: float64, (N, 2), pixels of the camera's picture.

        Returns:
            float64, (N, 2), pixels of an ideal pinhole with this matrix.
        """
        source = points.reshape(-1, 1, 2).astype(np.float64)
        found = cv2.undistortPoints(source, self.matrix(), np.array(self.distortion), P=self.matrix())
        return np.asarray(found, np.float64).reshape(-1, 2)


class Region(_Strict):
    """The bin's opening.

    Attributes:
        corners_px: Top left, top right, bottom right, bottom left, in the camera's own picture.
        size_wh: Size of the rectified picture.
        method: How the corners were found.
    """

    corners_px: tuple[Point, Point, Point, Point]
    size_wh: tuple[Side, Side]
    method: Literal["points", "fiducials", "frame"]

    @model_validator(mode="after")
    def _corners_are_a_bin(self) -> Region:
        if not cv2.isContourConvex(np.array(self.corners_px, np.float32).reshape(-1, 1, 2)):
            msg = f"corners must be those of a convex region, in order, got {self.corners_px}"
            raise ValueError(msg)
        return self


class Exposure(_Strict):
    """What the reference frames looked like, and the correction of their white.

    Attributes:
        mean_bgr: Mean level of the rectified reference frames, 0..255.
        gains_bgr: Factors that make white white; 1 leaves a channel alone.
    """

    mean_bgr: tuple[float, float, float]
    gains_bgr: tuple[
        Annotated[float, Field(ge=0.25, le=4)],
        Annotated[float, Field(ge=0.25, le=4)],
        Annotated[float, Field(ge=0.25, le=4)],
    ] = _NEUTRAL


_Levels = Annotated[Base64UrlBytes, Field(min_length=VIEW_WH[0] * VIEW_WH[1], max_length=VIEW_WH[0] * VIEW_WH[1])]
"""72 rows of 96 bytes, base64 in the file."""


class ReferenceView(_Strict):
    """What stays the same from visit to visit: the bin's frame, as a map of edges (see `bundle.moved`).

    Attributes:
        edges: Mean edge strength, 0..255.
        weights: How steady each edge is over the reference frames, 0..255: items have low weights.
        noise_px: How far two halves of the reference frames seem to lie apart, pixels of the rectified picture.
        frames: How many of them.
    """

    edges: _Levels
    weights: _Levels
    noise_px: Annotated[float, Field(ge=0)]
    frames: Annotated[int, Field(ge=1)]

    def maps(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Edges and weights as arrays.

        Returns:
            float32, (72, 96), 0..255, and float32, (72, 96), 0..1.
        """
        edges, weights = (
            np.frombuffer(part, np.uint8).reshape(VIEW_WH[1], VIEW_WH[0]) for part in (self.edges, self.weights)
        )
        return edges.astype(np.float32), weights.astype(np.float32) / np.float32(255)


class SignOff(_Strict):
    """Who looked at the rectified picture and found it right."""

    by: Annotated[str, Field(min_length=1, max_length=200)]
    at: AwareDatetime


class CameraProfile(_Strict):
    """The whole profile; a file of its own beside the bundle.

    Attributes:
        format_version: Always 1.
        camera: Name of the camera.
        created: When it was measured.
        signed_off: None until a person has looked at it.
        frame_wh: Size of the camera's picture; another size needs another profile.
        lens: None leaves distortion alone.
        region: None keeps the whole picture.
        exposure: None leaves levels alone.
        view: None makes "the camera moved" impossible to see.
    """

    format_version: Literal[1] = 1
    camera: Annotated[str, Field(min_length=1, max_length=64)]
    created: AwareDatetime
    signed_off: SignOff | None = None
    frame_wh: tuple[Side, Side]
    lens: Lens | None = None
    region: Region | None = None
    exposure: Exposure | None = None
    view: ReferenceView | None = None


def read_profile(path: Path) -> CameraProfile:
    """Read a profile.

    Args:
        path: The JSON file.

    Returns:
        The profile.

    Raises:
        ConfigError: It cannot be read, or is no profile.
    """
    try:
        return CameraProfile.model_validate_json(images.read_bytes(path, max_bytes=_MAX_PROFILE_BYTES))
    except InputError as exc:
        raise ConfigError(f"{path} cannot be read", got=exc.got, fix="Check the path of the camera profile.") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(
            f"{path} is no camera profile, at {where}", got=first["msg"], fix="Run `bintally calibrate camera` again."
        ) from exc


def remap_table(profile: CameraProfile) -> NDArray[np.float32]:
    """Where each pixel of the rectified picture comes from.

    Args:
        profile: Of the camera.

    Returns:
        float32, (h, w, 2), x and y in the camera's picture.
    """
    width, height = rectified_wh(profile)
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    return source_points(profile, np.stack([x, y], axis=-1)).astype(np.float32)


def rectified_wh(profile: CameraProfile) -> tuple[int, int]:
    """Size of the rectified picture.

    Args:
        profile: Of the camera.

    Returns:
        Width and height, pixels.
    """
    return profile.frame_wh if profile.region is None else profile.region.size_wh


def source_points(profile: CameraProfile, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where places of the rectified picture come from; places outside of it are fine.

    Args:
        profile: Of the camera.
        points: float64, (h, w, 2), pixels of the rectified picture.

    Returns:
        float64, (h, w, 2), pixels of the camera's picture.
    """
    if profile.region is not None:
        width, height = profile.region.size_wh
        corners = np.array(profile.region.corners_px)
        ideal = corners if profile.lens is None else profile.lens.undistort(corners)
        target = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float32)
        back = cv2.getPerspectiveTransform(target, ideal.astype(np.float32))
        flat = np.asarray(cv2.perspectiveTransform(points.reshape(-1, 1, 2), back), np.float64)
        points = flat.reshape(points.shape)
    return points if profile.lens is None else profile.lens.distort(points)


def require_size(image_bgr: NDArray[np.uint8], profile: CameraProfile) -> None:
    """Refuse a picture of another size than the profile was made for.

    Args:
        image_bgr: uint8, (H, W, 3), BGR.
        profile: Of the camera.

    Raises:
        InputError: The size differs.
    """
    if image_bgr.shape[1::-1] != profile.frame_wh:
        raise InputError(
            f"a frame of camera {profile.camera} does not fit its profile",
            got=f"{image_bgr.shape[1]}x{image_bgr.shape[0]}",
            expected="{}x{}".format(*profile.frame_wh),
            fix="Set the camera's old resolution, or run `bintally calibrate camera` again.",
        )


class Rectifier:
    """Applies a profile to pictures. The table is computed once; `apply` may be called from several threads.

    Args:
        profile: Of the camera.
    """

    def __init__(self, profile: CameraProfile) -> None:
        self.profile = profile
        plain = profile.lens is None and profile.region is None
        self._maps = None if plain else _fixed_point(remap_table(profile))
        self._levels = _level_table(profile.exposure)

    def apply(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Undistort and rectify a picture, and correct its white.

        Args:
            image_bgr: uint8, (H, W, 3), BGR, 0..255, of the profile's size.

        Returns:
            uint8, (h, w, 3), BGR; the input itself when the profile changes nothing.

        Raises:
            InputError: The picture has another size than the profile was made for.
        """
        require_size(image_bgr, self.profile)
        picture = image_bgr
        if self._maps is not None:
            whole, fraction = self._maps
            picture = np.asarray(cv2.remap(picture, whole, fraction, cv2.INTER_LINEAR), np.uint8)
        if self._levels is not None:
            picture = np.asarray(cv2.LUT(picture, self._levels), np.uint8)
        return picture


def _fixed_point(table: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    """Fixed-point tables halve the time of a remap; their steps of 1/32 pixel are invisible."""
    whole, fraction = cv2.convertMaps(table[..., 0], table[..., 1], cv2.CV_16SC2)
    return np.asarray(whole, np.int16), np.asarray(fraction, np.uint16)


def _level_table(exposure: Exposure | None) -> NDArray[np.uint8] | None:
    if exposure is None or exposure.gains_bgr == _NEUTRAL:
        return None
    levels = np.arange(256)[:, np.newaxis] * np.array(exposure.gains_bgr)
    return np.asarray(np.clip(levels.round(), 0, 255), np.uint8).reshape(256, 1, 3)
