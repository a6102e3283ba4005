from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from bundle.errors import ConfigError, InputError
from calibration.boards import BoardSpec, Corners, find_corners
from calibration.lens import MAX_RMS_PX, fit_lens
from tests.calibration.bin_scenes import LENS
from tests.simulators.optics import Pose, photograph

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FRAME_WH = (640, 480)


def board_poses(spec: BoardSpec, number: int, seed: int = 1) -> list[Pose]:
    """Where a person would hold the board: tilted to all sides, all over the picture."""
    rng = np.random.default_rng(seed)
    middle = np.array([spec.squares[0], spec.squares[1], 0]) * spec.square_mm / 2
    poses = []
    for _ in range(number):
        turn = np.array([*rng.uniform(-0.6, 0.6, 2), rng.uniform(-0.3, 0.3)])
        distance = rng.uniform(250, 380)
        place = rng.uniform(0.2, 0.8, 2) * _FRAME_WH
        ray = (place - [LENS.cx, LENS.cy]) / [LENS.fx, LENS.fy]
        shift = np.array([*ray * distance, distance]) - cv2.Rodrigues(turn)[0] @ middle
        poses.append(Pose((turn[0], turn[1], turn[2]), (shift[0], shift[1], shift[2])))
    return poses


@lru_cache(maxsize=2)
def board_shots(spec: BoardSpec, number: int) -> dict[str, NDArray[np.uint8]]:
    """Rendered shots of a board by name."""
    grey = np.clip(spec.picture(40), 25, 225)
    plane = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    size = (spec.squares[0] * spec.square_mm, spec.squares[1] * spec.square_mm)
    return {
        f"shot-{index}.png": photograph(plane, size, LENS, pose) for index, pose in enumerate(board_poses(spec, number))
    }


def _corners(spec: BoardSpec, number: int) -> dict[str, Corners]:
    found = {name: find_corners(shot, spec) for name, shot in board_shots(spec, number).items()}
    return {name: one for name, one in found.items() if one is not None}


def test_fit_lens_rendered_charuco_recovers_the_camera() -> None:
    shots = _corners(BoardSpec(), 14)
    assert len(shots) >= 12
    fit = fit_lens(shots, _FRAME_WH)
    assert fit.lens.fx == pytest.approx(LENS.fx, rel=0.01)
    assert fit.lens.fy == pytest.approx(LENS.fy, rel=0.01)
    assert fit.lens.rms_px < 0.5
    assert fit.focal_error < 0.005
    grid = np.stack(np.meshgrid(np.linspace(20, 620, 9), np.linspace(20, 460, 7)), axis=-1).reshape(-1, 2)
    # The two lenses agree on where light comes from, up to the picture's corners.
    away = np.abs(
        (LENS.undistort(grid) - [LENS.cx, LENS.cy]) / LENS.fx
        - (fit.lens.undistort(grid) - [fit.lens.cx, fit.lens.cy]) / fit.lens.fx
    )
    away -= np.median(away, axis=0)
    assert np.abs(away * LENS.fx).max() < 2


def test_fit_lens_leaves_out_the_shot_that_moved() -> None:
    shots = _corners(BoardSpec(), 14)
    name, good = next(iter(shots.items()))
    shaken = good.image_px + np.random.default_rng(0).normal(0, 3, good.image_px.shape).astype(np.float32)
    fit = fit_lens({**shots, name: Corners(good.board_mm, shaken)}, _FRAME_WH)
    assert fit.left_out == (name,)
    assert fit.lens.rms_px < MAX_RMS_PX


def test_fit_lens_too_few_shots_is_refused() -> None:
    shots = dict(list(_corners(BoardSpec(), 14).items())[:5])
    with pytest.raises(InputError, match="too few shots of the board: got 5, expected at least 8"):
        fit_lens(shots, _FRAME_WH)


def test_fit_lens_shots_in_the_middle_alone_are_refused() -> None:
    shots = {
        name: Corners(one.board_mm, np.asarray((one.image_px - [320, 240]) * 0.35 + [320, 240], np.float32))
        for name, one in _corners(BoardSpec(), 14).items()
    }
    with pytest.raises(InputError, match=r"unseen|does not explain|not well known"):
        fit_lens(shots, _FRAME_WH)


def test_fit_lens_corners_that_are_noise_are_refused() -> None:
    rng = np.random.default_rng(3)
    shots = {
        name: Corners(one.board_mm, one.image_px + rng.normal(0, 4, one.image_px.shape).astype(np.float32))
        for name, one in _corners(BoardSpec(), 14).items()
    }
    with pytest.raises(InputError, match="the lens does not explain the shots"):
        fit_lens(shots, _FRAME_WH)


def test_find_corners_chessboard_gives_every_inner_corner_to_a_fraction_of_a_pixel() -> None:
    spec = BoardSpec("chessboard", (8, 6), 25.0)
    grey = np.pad(np.clip(spec.picture(40), 25, 225), 40, constant_values=225)
    found = find_corners(np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8), spec)
    assert found is not None
    assert found.image_px.shape == (35, 2)
    expected = found.board_mm[:, :2] / 25 * 40 + 80 - 0.5
    assert np.abs(np.sort(found.image_px, axis=0) - np.sort(expected, axis=0)).max() < 0.3


def test_find_corners_without_a_board_finds_none() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    assert find_corners(noise, BoardSpec()) is None
    assert find_corners(noise, BoardSpec("chessboard")) is None


@pytest.mark.parametrize(("squares", "square_mm"), [((2, 5), 30.0), ((7, 50), 30.0), ((7, 5), 0.0)])
def test_board_that_cannot_be_printed_is_refused(squares: tuple[int, int], square_mm: float) -> None:
    with pytest.raises(ConfigError, match="no usable board"):
        BoardSpec("charuco", squares, square_mm)
