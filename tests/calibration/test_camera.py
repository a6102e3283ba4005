from __future__ import annotations

import json
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from bundle.camera import CameraProfile, Rectifier, read_profile
from bundle.errors import ConfigError, InputError
from bundle.moved import WINDOW_VISITS, MovedDetector
from calibration.boards import BoardSpec
from calibration.camera import Request, calibrate_camera, compare_views
from calibration.cli import calibrate
from calibration.region import region_from_points
from tests.calibration.bin_scenes import LENS, OPENING_MM, POSE, SIZE_MM, bin_picture, bin_plane, true_corners
from tests.calibration.test_lens import board_shots
from tests.simulators.optics import Pose, photograph, project

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_NOW = datetime(2026, 3, 4, tzinfo=timezone.utc)
_MOVED = Pose(POSE.rotation, (POSE.translation_mm[0] + 14, *POSE.translation_mm[1:]))


@lru_cache(maxsize=64)
def _picture(seed: int, *, moved: bool = False) -> NDArray[np.uint8]:
    return bin_picture(seed, pose=_MOVED if moved else POSE)


def _views(number: int = 8) -> dict[str, NDArray[np.uint8]]:
    return {f"{seed}.png": _picture(seed) for seed in range(number)}


def _profile(
    region: Literal["points", "frame", "none"], *, shots: bool = True, corners: NDArray[np.float64] | None = None
) -> CameraProfile:
    request = Request("camera", region, corners)
    return calibrate_camera(
        board_shots(BoardSpec(), 14) if shots else None, _views(), BoardSpec(), request, now=_NOW
    ).profile


def _rectified(profile: CameraProfile, picture_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where places of the camera's picture end up, by the profile's own lens and corners."""
    assert profile.lens is not None
    assert profile.region is not None
    width, height = profile.region.size_wh
    target = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float32)
    ideal = profile.lens.undistort(np.array(profile.region.corners_px)).astype(np.float32)
    forward = cv2.getPerspectiveTransform(ideal, target)
    points = profile.lens.undistort(picture_px).reshape(-1, 1, 2)
    return np.asarray(cv2.perspectiveTransform(points, forward), np.float64).reshape(-1, 2)


@pytest.mark.parametrize("method", ["points", "frame"])
def test_rectified_bin_lies_within_two_pixels_of_the_truth_at_its_corners_and_inside(
    method: Literal["points", "frame"],
) -> None:
    profile = _profile(method, corners=true_corners())
    assert profile.region is not None
    width, height = profile.region.size_wh
    share = np.stack(np.meshgrid(np.linspace(0, 1, 5), np.linspace(0, 1, 5)), axis=-1).reshape(-1, 2)
    on_bin = OPENING_MM[0] + share * (OPENING_MM[2] - OPENING_MM[0])
    found = _rectified(profile, project(on_bin, LENS, POSE))
    error = np.linalg.norm(found - share * [width - 1, height - 1], axis=1)
    corners = np.isin(share, [0.0, 1.0]).all(axis=1)
    assert error[corners].max() < 2
    assert error.max() < 2


def test_rectifier_gives_the_picture_that_a_camera_in_front_would_give() -> None:
    profile = CameraProfile(
        camera="c", created=_NOW, frame_wh=(640, 480), lens=LENS,
        region=region_from_points(true_corners(), (640, 480), LENS),
    )  # fmt: skip
    rectified = Rectifier(profile).apply(_picture(3))
    left, top = (OPENING_MM[0] * 2).astype(int)
    right, bottom = (OPENING_MM[2] * 2).astype(int)
    truth = cv2.resize(bin_plane(3)[top:bottom, left:right], rectified.shape[1::-1], interpolation=cv2.INTER_AREA)
    inner = (slice(3, -3), slice(3, -3))
    assert np.corrcoef(rectified[inner].ravel(), truth[inner].ravel())[0, 1] > 0.98


def test_region_corners_may_come_in_any_order() -> None:
    corners = true_corners()
    shuffled = corners[[2, 0, 3, 1]]
    first, second = (region_from_points(points, (640, 480), LENS) for points in (corners, shuffled))
    assert first == second


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(10, 10), (30, 10), (30, 30), (10, 30)], "enclose too little"),
        ([(10, 10), (2000, 10), (600, 400), (10, 400)], "outside the picture"),
        ([(10, 10), (600, 10), (600, 400)], "four corners"),
        ([(10, 10), (600, 10), (200, 100), (10, 400)], "not those of a bin"),
    ],
)
def test_region_that_is_no_bin_is_refused(points: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        region_from_points(np.array(points, np.float64), (640, 480), None)


def test_region_by_fiducials_is_inside_the_markers() -> None:
    plane = bin_plane(1).copy()
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_100)
    side, gap = 60, 8
    left, top = (OPENING_MM[0] * 2).astype(int)
    right, bottom = (OPENING_MM[2] * 2).astype(int)
    places = [(left, top), (right - side, top), (right - side, bottom - side), (left, bottom - side)]
    for name, (x, y) in enumerate(places):
        cv2.rectangle(plane, (x - gap, y - gap), (x + side + gap, y + side + gap), (255, 255, 255), -1)
        marker = cv2.aruco.generateImageMarker(dictionary, name, side)
        plane[y : y + side, x : x + side] = marker[..., np.newaxis]
    picture = photograph(plane, SIZE_MM, LENS, POSE)
    request = Request("camera", "fiducials")
    profile = calibrate_camera(None, {"a": picture}, BoardSpec(), request, now=_NOW).profile
    assert profile.region is not None
    inner = np.array([(left + side, top + side), (right - side, top + side), (right - side, bottom - side),
                      (left + side, bottom - side)]) / 2  # fmt: skip
    expected = project(inner.astype(np.float64), LENS, POSE)
    assert np.abs(np.array(profile.region.corners_px) - expected).max() < 1.5


def test_region_by_fiducials_that_are_not_there_says_so() -> None:
    with pytest.raises(InputError, match="no picture shows the markers"):
        calibrate_camera(None, _views(2), BoardSpec(), Request("camera", "fiducials"), now=_NOW)


def test_region_by_frame_on_pictures_without_a_bin_is_refused() -> None:
    flat = np.full((480, 640, 3), 128, np.uint8)
    with pytest.raises(InputError, match="does not stand out"):
        calibrate_camera(None, {"a": flat}, BoardSpec(), Request("camera", "frame"), now=_NOW)


@pytest.mark.parametrize("level", [4, 252])
def test_views_that_are_badly_exposed_are_refused(level: int) -> None:
    flat = np.full((480, 640, 3), level, np.uint8)
    with pytest.raises(InputError, match="not well exposed"):
        calibrate_camera(None, {"a": flat}, BoardSpec(), Request("camera", "none"), now=_NOW)


def test_white_balance_makes_the_board_grey_again() -> None:
    tint = np.array([0.7, 1.0, 0.9])
    shots = {name: np.asarray(shot * tint, np.uint8) for name, shot in board_shots(BoardSpec(), 14).items()}
    views = {name: np.asarray(view * tint, np.uint8) for name, view in _views(2).items()}
    request = Request("camera", "frame", white_balance=True)
    profile = calibrate_camera(shots, views, BoardSpec(), request, now=_NOW).profile
    assert profile.exposure is not None
    assert profile.exposure.gains_bgr == pytest.approx((1 / 0.7, 1.0, 1 / 0.9), rel=0.03)
    picture = Rectifier(profile).apply(views["0.png"]).reshape(-1, 3).mean(axis=0)
    untinted = Rectifier(profile.model_copy(update={"exposure": None})).apply(_picture(0)).reshape(-1, 3).mean(axis=0)
    assert picture[0] / picture[1] == pytest.approx(untinted[0] / untinted[1], rel=0.04)


def test_moved_detector_other_items_are_no_motion_and_a_bump_is_found_once() -> None:
    profile = _profile("frame", shots=False)
    assert profile.view is not None
    detector = MovedDetector(profile, profile.view)
    quiet = [detector.update(_picture(100 + visit % 16)) for visit in range(3 * WINDOW_VISITS)]
    assert quiet == [None] * len(quiet)
    found = [detector.update(_picture(100 + visit % 16, moved=True)) for visit in range(4 * WINDOW_VISITS)]
    events = [motion for motion in found if motion is not None]
    assert len(events) == 1
    assert detector.moved
    assert events[0].shift_px[0] == pytest.approx(14, abs=4)
    back = [detector.update(_picture(100 + visit % 16)) for visit in range(2 * WINDOW_VISITS)]
    assert back == [None] * len(back)
    assert not detector.moved


def test_compare_views_a_covered_lens_counts_as_moved() -> None:
    profile = _profile("frame", shots=False)
    noise = np.random.default_rng(0).integers(60, 90, (480, 640, 3), dtype=np.uint8)
    assert compare_views(profile, [noise]).moved
    assert not compare_views(profile, [_picture(200 + seed) for seed in range(6)]).moved


def test_rectifier_another_resolution_is_refused() -> None:
    profile = CameraProfile(camera="c", created=_NOW, frame_wh=(640, 480))
    with pytest.raises(InputError, match="got 320x240, expected 640x480"):
        Rectifier(profile).apply(np.zeros((240, 320, 3), np.uint8))


def test_calibrate_camera_command_writes_a_profile_that_reads_back(tmp_path: Path) -> None:
    for folder, pictures in (("shots", board_shots(BoardSpec(), 14)), ("views", _views(6))):
        (tmp_path / folder).mkdir()
        for name, picture in pictures.items():
            cv2.imwrite(str(tmp_path / folder / name), picture)
    out = tmp_path / "camera.json"
    folders = ["camera", str(tmp_path / "views"), "--shots", str(tmp_path / "shots"), "--out", str(out)]
    arguments = [*folders, "--name", "front", "--preview", str(tmp_path / "p.jpg"), "--sign-off", "a person", "--json"]
    done = CliRunner().invoke(calibrate, arguments, catch_exceptions=False)
    content = json.loads(done.stdout)
    profile = read_profile(out)
    assert profile.signed_off is not None
    assert (profile.camera, profile.signed_off.by, content["lens"]["shots"]) == ("front", "a person", 14)
    preview = cv2.imread(str(tmp_path / "p.jpg"))
    assert preview is not None
    assert preview.shape[0] == 480
    assert out.stat().st_size < 25_000
    same = CliRunner().invoke(calibrate, ["moved", str(out), str(tmp_path / "views"), "--json"])
    assert (same.exit_code, json.loads(same.stdout)["moved"]) == (0, False)


@pytest.mark.parametrize(
    ("text", "where"), [("{}", "camera"), ('{"camera": "c", "zoom": 2}', "zoom"), ("[", "the file")]
)
def test_profile_that_is_wrong_is_refused_by_key(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "camera.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"is no camera profile, at .*{where}|is no camera profile, at created"):
        read_profile(tmp_path / "camera.json")


def test_profile_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_profile(tmp_path / "nothing.json")
