from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from bundle.errors import ConfigError
from edge_agent.capture.markers import MAX_LABEL, MarkerReader

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _scene(*labels: tuple[NDArray[np.uint8], int, int]) -> NDArray[np.uint8]:
    """A grey picture with printed labels, each with its place."""
    image = np.full((480, 640, 3), 180, np.uint8)
    for label, left, top in labels:
        height, width = label.shape[:2]
        image[top - 10 : top + height + 10, left - 10 : left + width + 10] = 255
        image[top : top + height, left : left + width] = label.reshape(height, width, -1)
    return image


def _qr(text: str) -> NDArray[np.uint8]:
    code = cv2.QRCodeEncoder.create().encode(text)
    return np.asarray(cv2.resize(code, None, fx=5, fy=5, interpolation=cv2.INTER_NEAREST), np.uint8)


def _aruco(number: int) -> NDArray[np.uint8]:
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50)
    return np.asarray(cv2.aruco.generateImageMarker(dictionary, number, 80), np.uint8)


def test_marker_reader_reads_a_qr_code() -> None:
    assert MarkerReader("qr", "").read(_scene((_qr("A-01044"), 200, 150))) == "A-01044"


def test_marker_reader_takes_the_label_nearest_to_the_middle() -> None:
    scene = _scene((_aruco(7), 20, 20), (_aruco(31), 280, 200))
    assert MarkerReader("aruco", "4X4_50").read(scene) == "31"


def test_marker_reader_without_a_label_reads_nothing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for reader in (MarkerReader("qr", ""), MarkerReader("aruco", "4X4_50")):
        assert reader.read(_scene()) == ""
        assert reader.read(noise) == ""
        assert reader.read(np.zeros((1, 1, 3), np.uint8)) == ""


def test_marker_reader_makes_one_printable_line_of_what_a_stranger_printed() -> None:
    found = MarkerReader("qr", "").read(_scene((_qr("A\n1\x07" + "x" * 150), 150, 100)))
    assert found.startswith("A1x")
    assert len(found) == MAX_LABEL


def test_marker_reader_unknown_dictionary_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="marker_dictionary"):
        MarkerReader("aruco", "9X9_9")
