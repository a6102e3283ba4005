from __future__ import annotations

import cv2
import numpy as np
import pytest

from bundle.signals import FRAME_SIGNALS, Look, answer_signals, displacement, frame_signals, look

_RNG = np.random.default_rng(0)
_PICTURE = np.asarray(
    cv2.resize(_RNG.integers(60, 190, (9, 12, 3), dtype=np.uint8), (224, 168), interpolation=cv2.INTER_CUBIC), np.uint8
)


def _changed(**matrix: float) -> Look:
    shift = np.array([[1, 0, matrix.get("x", 0)], [0, 1, matrix.get("y", 0)]], np.float32)
    if "grow" in matrix:
        shift = cv2.getRotationMatrix2D((112, 84), 0, 1 + matrix["grow"]).astype(np.float32)
    moved = cv2.warpAffine(_PICTURE, shift, (224, 168), borderMode=cv2.BORDER_REFLECT)
    return look(np.asarray(moved, np.uint8))


@pytest.mark.parametrize(
    ("signal", "change", "sign"),
    [
        ("brightness", lambda p: p * 0.6, -1),
        ("contrast", lambda p: p * 0.5 + 60, -1),
        ("sharpness", lambda p: cv2.GaussianBlur(p, (0, 0), 3), -1),
        ("red", lambda p: p * [1, 1, 1.2], 1),
        ("blue", lambda p: p * [0.8, 1, 1], -1),
    ],
)
def test_look_a_change_shows_in_its_signal(signal: str, change: object, sign: int) -> None:
    assert callable(change)
    before = look(_PICTURE)
    after = look(np.asarray(np.clip(change(_PICTURE), 0, 255), np.uint8))
    assert np.sign(getattr(after, signal) - getattr(before, signal)) == sign


def test_displacement_finds_shift_and_growth() -> None:
    reference = look(_PICTURE).view
    x, y, zoom = displacement(_changed(x=6.0, y=-4.0).view, reference)
    assert x == pytest.approx(6 / 224, abs=0.006)
    assert y == pytest.approx(-4 / 168, abs=0.006)
    _, _, zoom = displacement(_changed(grow=0.04).view, reference)
    assert zoom == pytest.approx(0.04, abs=0.015)
    assert displacement(reference, reference) == pytest.approx((0, 0, 0), abs=1e-6)


def test_look_flat_picture_is_finite() -> None:
    for level in (0, 128, 255):
        one = look(np.full((168, 224, 3), level, np.uint8))
        assert np.isfinite(frame_signals([one], look(_PICTURE).view)).all()


def test_frame_signals_average_the_frames_of_a_visit() -> None:
    reference = look(_PICTURE).view
    dark, bright = look(np.asarray(_PICTURE * 0.5, np.uint8)), look(_PICTURE)
    both = frame_signals([dark, bright], reference)
    assert both[FRAME_SIGNALS.index("brightness")] == pytest.approx((dark.brightness + bright.brightness) / 2)


def test_answer_signals_flat_posterior_has_the_largest_entropy() -> None:
    logits = np.array([[1000.0, 0, 0]], np.float32)
    sure = answer_signals(logits, np.array([1.0, 0, 0]), confident=True)
    flat = answer_signals(logits * 0, np.full(3, 1 / 3), confident=False)
    assert sure.tolist() == [0, 1000, 0]
    assert flat == pytest.approx([np.log(3), np.log(3), 1])
