"""Calibration boards and their corners: the one adapter of OpenCV's board detectors (written for 4.10 to 5.0).

A ChArUco board is a chessboard with a marker in every white square, so its corners are known by name and it may be cut
off by the picture's edge; that is what brings corners into the picture's own corners, where distortion is largest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DICTIONARY = cv2.aruco.DICT_5X5_100
_MIN_CORNERS = 6
_MARKER_SHARE = 0.75
_FIDUCIAL_CORNERS = 4


@dataclass(frozen=True, slots=True)
class BoardSpec:
    """A printed board.

    Attributes:
        kind: "charuco" or "chessboard".
        squares: Squares per row and column; a chessboard's inner corners are one fewer each way.
        square_mm: Side of a square, measured on the print.
    """

    kind: Literal["charuco", "chessboard"] = "charuco"
    squares: tuple[int, int] = (7, 5)
    square_mm: float = 30.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: No such board can be printed.
        """
        if min(self.squares) < 3 or max(self.squares) > 40 or not 1 <= self.square_mm <= 1000:  # noqa: PLR2004 - bounds
            raise ConfigError(
                "no usable board",
                got=f"{self.squares[0]}x{self.squares[1]} squares of {self.square_mm} mm",
                expected="3 to 40 squares each way, 1 to 1000 mm",
            )

    def charuco(self) -> cv2.aruco.CharucoBoard:
        """OpenCV's board.

        Returns:
            A board whose markers fill three quarters of their squares.
        """
        dictionary = cv2.aruco.getPredefinedDictionary(DICTIONARY)
        marker_mm = self.square_mm * _MARKER_SHARE
        return cv2.aruco.CharucoBoard(self.squares, self.square_mm, marker_mm, dictionary)

    def picture(self, pixels_per_square: int = 120) -> NDArray[np.uint8]:
        """Draw the board for printing.

        Args:
            pixels_per_square: Resolution.

        Returns:
            uint8, (H, W), black and white, without a margin.
        """
        size = (self.squares[0] * pixels_per_square, self.squares[1] * pixels_per_square)
        if self.kind == "charuco":
            return np.asarray(self.charuco().generateImage(size, marginSize=0), np.uint8)
        columns, rows = np.meshgrid(np.arange(size[0]) // pixels_per_square, np.arange(size[1]) // pixels_per_square)
        return np.asarray(((columns + rows) % 2) * 255, np.uint8)

    def png(self) -> bytes:
        """The board as a file to print, with half a square of white around it.

        Returns:
            A PNG.
        """
        page = np.pad(self.picture(), 60, constant_values=255)
        _, data = cv2.imencode(".png", page)
        return bytes(data)


@dataclass(frozen=True, slots=True)
class Corners:
    """Corners that one shot shows.

    Attributes:
        board_mm: float32, (N, 3), where they lie on the board; z is 0.
        image_px: float32, (N, 2), where they lie in the shot.
    """

    board_mm: NDArray[np.float32]
    image_px: NDArray[np.float32]


def find_corners(image_bgr: NDArray[np.uint8], spec: BoardSpec) -> Corners | None:
    """Look for the board on a shot.

    Args:
        image_bgr: uint8, (H, W, 3), BGR.
        spec: The board.

    Returns:
        Its corners to a fraction of a pixel, or None when too little of it is seen.
    """
    grey = np.asarray(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY), np.uint8)
    return _charuco(grey, spec) if spec.kind == "charuco" else _chessboard(grey, spec)


def _charuco(grey: NDArray[np.uint8], spec: BoardSpec) -> Corners | None:
    board = spec.charuco()
    # Its stubs deny that both are None when nothing is seen.
    found: Any = cv2.aruco.CharucoDetector(board).detectBoard(grey)
    corners, ids = found[0], found[1]
    if corners is None or ids is None or len(ids) < _MIN_CORNERS:
        return None
    all_mm = np.asarray(board.getChessboardCorners(), np.float32)
    return Corners(all_mm[np.asarray(ids).ravel()], np.asarray(corners, np.float32).reshape(-1, 2))


def _chessboard(grey: NDArray[np.uint8], spec: BoardSpec) -> Corners | None:
    inner = (spec.squares[0] - 1, spec.squares[1] - 1)
    found, corners = cv2.findChessboardCornersSB(grey, inner, flags=cv2.CALIB_CB_NORMALIZE_IMAGE)
    if not found:
        return None
    columns, rows = np.meshgrid(np.arange(inner[0]), np.arange(inner[1]))
    board = np.stack([columns.ravel(), rows.ravel(), np.zeros(columns.size)], axis=1) * spec.square_mm
    return Corners(board.astype(np.float32), np.asarray(corners, np.float32).reshape(-1, 2))


def find_fiducials(image_bgr: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Look for the four markers 0, 1, 2, 3 at a bin's corners.

    Args:
        image_bgr: uint8, (H, W, 3), BGR.

    Returns:
        float64, (4, 2): the innermost corners of the markers at top left, top right, bottom right and bottom left,
        pixels; None when one of them is not seen.
    """
    dictionary = cv2.aruco.getPredefinedDictionary(DICTIONARY)
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    detected: Any = cv2.aruco.ArucoDetector(dictionary, parameters).detectMarkers(image_bgr)
    corners, ids = detected[0], detected[1]
    if ids is None:
        return None
    found = {int(name): np.asarray(quad).reshape(4, 2) for name, quad in zip(ids.ravel(), corners, strict=True)}
    if not all(name in found for name in range(_FIDUCIAL_CORNERS)):
        return None
    # A marker's corners go round from its top left; the one that faces the bin lies opposite to the marker's place.
    return np.array([found[name][(name + 2) % _FIDUCIAL_CORNERS] for name in range(_FIDUCIAL_CORNERS)], np.float64)
