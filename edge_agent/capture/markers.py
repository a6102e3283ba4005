"""Labels of bins in the picture: QR codes and ArUco markers, as OpenCV reads them, inside the capture process.

OpenCV reads no Data Matrix codes. What a label says is written by whoever printed it: it is cut to a line of printable
characters, and becomes a `bin_id` like any other text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MarkerKind = Literal["qr", "aruco"]
MAX_LABEL = 128
_Found = tuple[str, tuple[float, float]]


class MarkerReader:
    """Reads the label nearest to the middle of a picture.

    Args:
        kind: What is printed on the bins.
        dictionary: Of ArUco markers, as OpenCV names it without its prefix, for example "4X4_50".

    Raises:
        ConfigError: OpenCV knows no such dictionary.
    """

    def __init__(self, kind: MarkerKind, dictionary: str) -> None:
        self._find: Callable[[NDArray[np.uint8]], list[_Found]] = _qr() if kind == "qr" else _aruco(dictionary)

    def read(self, image_bgr: NDArray[np.uint8]) -> str:
        """Read a picture.

        Args:
            image_bgr: uint8, (H, W, 3), BGR, 0..255.

        Returns:
            The label, empty when none can be read.
        """
        height, width = image_bgr.shape[:2]
        try:
            found = [(_clean(text), place) for text, place in self._find(image_bgr)]
        except cv2.error:
            return ""  # Some scenes make the detectors of OpenCV divide by nothing.
        readable = [(text, (x - width / 2) ** 2 + (y - height / 2) ** 2) for text, (x, y) in found if text]
        return min(readable, key=lambda one: one[1])[0] if readable else ""


def _clean(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable()).strip()[:MAX_LABEL]


def _middle(corners: NDArray[np.float32]) -> tuple[float, float]:
    x, y = np.asarray(corners, np.float64).reshape(-1, 2).mean(axis=0)
    return float(x), float(y)


def _qr() -> Callable[[NDArray[np.uint8]], list[_Found]]:
    # The older detector misses codes that this one reads (seen: 6 of 8 sizes of a clean print).
    detector = cv2.QRCodeDetectorAruco()

    def find(image: NDArray[np.uint8]) -> list[_Found]:
        done, texts, corners, _ = detector.detectAndDecodeMulti(image)
        return [(text, _middle(place)) for text, place in zip(texts, corners, strict=True)] if done else []

    return find


def _aruco(dictionary: str) -> Callable[[NDArray[np.uint8]], list[_Found]]:
    number = getattr(cv2.aruco, f"DICT_{dictionary}", None)
    if number is None:
        known = ", ".join(sorted(name[5:] for name in dir(cv2.aruco) if name.startswith("DICT_")))
        raise ConfigError("cameras.marker_dictionary is unknown", got=dictionary, expected=f"one of {known}")
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(number))

    def find(image: NDArray[np.uint8]) -> list[_Found]:
        found: Any = detector.detectMarkers(image)  # typed as if there always were markers
        corners, ids = found[0], found[1]
        if ids is None:
            return []
        return [(str(int(one)), _middle(place)) for one, place in zip(np.ravel(ids), corners, strict=True)]

    return find
