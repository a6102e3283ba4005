from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from bundle.images import read
from bundle.manifest import Preprocessing
from bundle.preprocess import resize
from edge_agent.capture.frames import FrameStats
from edge_agent.capture.gate import GateState, flat_tail, judge, measure
from edge_agent.config import GateSection

_SHARED = Path(os.environ.get("BINTALLY_SHARED", Path(__file__).resolve().parents[3] / "shared"))
_ORIGINALS = _SHARED / "abid" / "originals"
_SPEC = Preprocessing(size_wh=(224, 224), mean=(0, 0, 0), std=(1, 1, 1))
_GOOD = FrameStats(brightness=120, sharpness=80, motion=0, checksum=1)


@pytest.mark.parametrize(
    ("brightness", "sharpness", "expected"),
    [
        (120.0, 80.0, ()),
        (11.9, 80.0, ("dark",)),
        (12.0, 80.0, ()),
        (245.1, 80.0, ("bright",)),
        (120.0, 2.9, ("blurred",)),
        (3.0, 0.0, ("dark", "blurred")),
    ],
)
def test_judge_each_limit_flags_what_lies_beyond(
    brightness: float, sharpness: float, expected: tuple[str, ...]
) -> None:
    stats = FrameStats(brightness=brightness, sharpness=sharpness, motion=0, checksum=2)
    verdict, _ = judge(stats, GateSection(), GateState(), 0.0)
    assert verdict.flags == expected


def test_judge_blind_camera_is_said_after_its_time_and_forgotten_at_once() -> None:
    black, limits, state, seen = replace(_GOOD, brightness=2.0), GateSection(blind_s=5), GateState(), []
    for now_s, stats in ((0.0, _GOOD), (1.0, black), (4.9, black), (5.0, black), (5.1, _GOOD)):
        verdict, state = judge(stats, limits, state, now_s)
        seen.append(verdict.blind)
    assert seen == [(), (), (), ("dark",), ()]


def test_judge_motion_blur_is_no_blindness() -> None:
    limits, state = GateSection(blind_s=1), GateState()
    for number in range(10):
        verdict, state = judge(replace(_GOOD, sharpness=0.0, checksum=number), limits, state, float(number))
    assert (verdict.flags, verdict.blind) == (("blurred",), ())


def test_flat_tail_is_the_share_that_a_decoder_made_up() -> None:
    noise = np.random.default_rng(0).integers(100, 110, (200, 64, 3), dtype=np.uint8)
    cut = noise.copy()
    cut[150:] = 128
    assert flat_tail(noise) == 0
    assert flat_tail(cut) == pytest.approx(0.25, abs=0.01)
    verdict, _ = judge(measure(cut, None, cut)[0], GateSection(), GateState(), 0.0)
    assert "torn" in verdict.flags


def test_judge_repeated_picture_is_frozen_only_after_its_time() -> None:
    limits, state = GateSection(frozen_s=5), GateState()
    seen = []
    for now_s in (0.0, 2.0, 4.9, 5.0):
        verdict, state = judge(_GOOD, limits, state, now_s)
        seen.append((verdict.flags, verdict.frozen))
    assert seen == [((), False), (("repeated",), False), (("repeated",), False), (("repeated",), True)]


def test_judge_frozen_switched_off_never_freezes() -> None:
    limits, state = GateSection(frozen_s=0), GateState()
    for now_s in (0.0, 1e6):
        verdict, state = judge(_GOOD, limits, state, now_s)
    assert not verdict.frozen


def test_measure_sees_darkness_blur_and_motion() -> None:
    rng = np.random.default_rng(0)
    sharp = rng.integers(0, 256, (340, 490, 3), dtype=np.uint8)
    blurred = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 6), dtype=np.uint8)
    stats, thumbnail = measure(sharp, None)
    soft, _ = measure(blurred, thumbnail)
    dark, _ = measure(np.zeros((340, 490, 3), np.uint8), thumbnail)
    assert stats.motion == 0
    assert soft.sharpness < stats.sharpness / 100
    assert dark.brightness == 0
    assert dark.motion > 50
    assert len({stats.checksum, soft.checksum, dark.checksum}) == 3


def test_measure_one_pixel_picture_works() -> None:
    stats, _ = measure(np.full((1, 1, 3), 7, np.uint8), None)
    assert stats.brightness == 7


@pytest.mark.skipif(not _ORIGINALS.is_dir(), reason="the photos of BINTALLY_SHARED are not here")
def test_judge_default_limits_pass_every_real_bin_photo() -> None:
    names = sorted(_ORIGINALS.iterdir())
    state, flagged = GateState(), []
    for number, file in enumerate(names):
        photo = read(file)
        stats, _ = measure(resize(photo, _SPEC), None, photo)
        verdict, state = judge(stats, GateSection(), state, float(number))
        if verdict.flags:
            flagged.append((file.name, verdict.flags))
    assert flagged == []
