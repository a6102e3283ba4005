from __future__ import annotations

import numpy as np
import pytest

from bundle.counter import posterior_from_logits
from bundle.errors import InputError
from calibration.confidence import (
    NEVER,
    Labelled,
    calibrate,
    clopper_pearson_upper,
    find_threshold,
    fit_temperature,
    frames_needed,
)


def _drawn(frames: int, seed: int, *, stretch: float = 1.0, sharpness: float = 3.0) -> Labelled:
    """Logits whose softmax, at temperature `stretch`, is the true probability of each class."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, sharpness, (frames, 5)).astype(np.float32)
    posterior = posterior_from_logits(honest, 1.0)
    truth = np.array([rng.choice(5, p=row) for row in posterior], dtype=np.int64)
    return Labelled(honest * np.float32(stretch), truth)


@pytest.mark.parametrize("stretch", [0.5, 1.0, 3.0])
def test_fit_temperature_finds_the_stretch_that_was_put_in(stretch: float) -> None:
    assert fit_temperature(_drawn(6000, 1, stretch=stretch)) == pytest.approx(stretch, rel=0.06)


@pytest.mark.parametrize(
    ("wrong", "total", "expected"),
    # Exact one-sided 95 % limits; 0 of n has the closed form 1 - 0.05 ** (1 / n).
    [(0, 10, 1 - 0.05**0.1), (0, 59, 1 - 0.05 ** (1 / 59)), (1, 10, 0.394163), (5, 100, 0.102251), (10, 10, 1.0)],
)
def test_clopper_pearson_upper_matches_published_limits(wrong: int, total: int, expected: float) -> None:
    assert clopper_pearson_upper(wrong, total, 0.95) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("risk", "frames"), [(0.05, 59), (0.1, 29), (0.3, 9)])
def test_frames_needed_is_the_smallest_number_that_can_pass(risk: float, frames: int) -> None:
    assert frames_needed(risk, 0.95) == frames
    assert clopper_pearson_upper(0, frames, 0.95) <= risk < clopper_pearson_upper(0, frames - 1, 0.95)


def test_find_threshold_keeps_its_promise_over_many_draws() -> None:
    risk, broken, made = 0.2, 0, 0
    population = _drawn(60_000, 99)
    posterior = posterior_from_logits(population.logits, 1.0)
    top, wrong = posterior.max(axis=1), posterior.argmax(axis=1) != population.truth
    for seed in range(100):
        found = find_threshold(_drawn(300, seed), 1.0, risk=risk, confidence=0.95)
        if found is None:
            continue
        made += 1
        broken += bool(wrong[top >= found[0]].mean() > risk)
    assert made > 80
    assert broken <= 10  # at most 5 expected; 11 or more of 100 has a probability of 1 %


def test_find_threshold_loose_risk_covers_more_than_strict() -> None:
    data = _drawn(2000, 3)
    strict = find_threshold(data, 1.0, risk=0.1, confidence=0.95)
    loose = find_threshold(data, 1.0, risk=0.4, confidence=0.95)
    assert strict is not None
    assert loose is not None
    assert loose[1].coverage > strict[1].coverage


def test_calibrate_too_few_frames_makes_nothing_confident() -> None:
    result = calibrate(_drawn(20, 0), fitted_on="cpu", risk=0.05)
    assert result.promise is None
    assert result.threshold == NEVER


def test_calibrate_answers_unrelated_to_the_truth_make_no_promise() -> None:
    rng = np.random.default_rng(0)
    data = Labelled(rng.normal(0, 5, (800, 5)).astype(np.float32), rng.integers(0, 5, 800))
    assert calibrate(data, fitted_on="cpu", risk=0.2).promise is None


@pytest.mark.parametrize("truth", [[], [0, 7], [-1, 0]], ids=["empty", "beyond", "negative"])
def test_labelled_truth_that_does_not_fit_is_refused(truth: list[int]) -> None:
    with pytest.raises(InputError, match="not usable"):
        Labelled(np.zeros((len(truth), 5), np.float32), np.array(truth, np.int64))
