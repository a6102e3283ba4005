from __future__ import annotations

import numpy as np

from bundle.signals import Look, look
from calibration.observe import Observed
from calibration.picking import pick_different, pick_pictures
from calibration.visits import Visit
from tests.calibration.scenes import scene


def _observed(brightness: list[float]) -> Observed:
    rng = np.random.default_rng(0)
    one = look(scene(rng, 2))
    looks = tuple(Look(level, one.contrast, one.sharpness, one.red, one.blue, one.view) for level in brightness)
    visits = tuple(Visit(str(index), str(index), (), None) for index in range(len(looks)))
    return Observed(visits, np.zeros((len(looks), 5), np.float32), np.arange(len(looks)), looks, ())


def test_pick_different_takes_the_rare_visits_among_many_alike() -> None:
    levels = [100.0 + 0.01 * index for index in range(200)]
    levels[17], levels[90] = 20.0, 240.0
    chosen = pick_different(_observed(levels), np.arange(200), 5)
    assert {17, 90} <= set(chosen.tolist())
    assert len(set(chosen.tolist())) == 5
    assert np.all(np.diff(chosen) > 0)


def test_pick_different_of_visits_that_are_all_the_same_still_gives_the_number() -> None:
    chosen = pick_different(_observed([100.0] * 30), np.arange(10, 30), 7)
    assert len(set(chosen.tolist())) == 7
    assert set(chosen.tolist()) <= set(range(10, 30))


def test_pick_different_few_visits_are_all_taken() -> None:
    assert pick_different(_observed([1.0, 2.0, 3.0]), np.array([0, 2]), 9).tolist() == [0, 2]


def test_pick_pictures_takes_the_dark_and_the_blurred_one() -> None:
    rng = np.random.default_rng(0)
    pictures = np.stack([rng.integers(90, 150, (24, 32, 3), np.uint8) for _ in range(40)])
    pictures[7] //= 8
    pictures[23] = 120
    chosen = pick_pictures(pictures, np.zeros((40, 5), np.float32), 3)
    assert {7, 23} <= set(chosen.tolist())
    assert len(chosen) == 3
