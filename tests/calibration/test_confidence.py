from __future__ import annotations

import numpy as np
import pytest

from bundle.counter import count_from_posterior
from bundle.errors import InputError
from calibration.bounds import clopper_pearson_upper, frames_needed, supports
from calibration.confidence import NEVER, Labelled, calibrate, find_threshold, fit_temperature, tops, visits_needed
from tests.calibration.populations import honest, ordinal


@pytest.mark.parametrize("stretch", [0.5, 1.0, 3.0])
def test_fit_temperature_finds_the_stretch_that_was_put_in(stretch: float) -> None:
    assert fit_temperature(honest(6000, 1, stretch=stretch)) == pytest.approx(stretch, rel=0.06)


@pytest.mark.parametrize(
    ("wrong", "total", "expected"),
    # Exact one-sided 95 % limits; 0 of n has the closed form 1 - 0.05 ** (1 / n).
    [(0, 10, 1 - 0.05**0.1), (0, 59, 1 - 0.05 ** (1 / 59)), (1, 10, 0.394163), (5, 100, 0.102251), (10, 10, 1.0)],
)
def test_clopper_pearson_upper_matches_published_limits(wrong: int, total: int, expected: float) -> None:
    assert clopper_pearson_upper(wrong, total, 0.95) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("wrong", "total"), [(0, 58), (0, 59), (3, 152), (3, 153), (40, 900), (5000, 20_000)])
@pytest.mark.parametrize("risk", [0.05, 0.1, 0.26])
def test_supports_agrees_with_the_bound(wrong: int, total: int, risk: float) -> None:
    assert supports(wrong, total, risk, 0.95) == (clopper_pearson_upper(wrong, total, 0.95) <= risk)


@pytest.mark.parametrize(("risk", "frames"), [(0.05, 59), (0.1, 29), (0.3, 9)])
def test_frames_needed_is_the_smallest_number_that_can_pass(risk: float, frames: int) -> None:
    assert frames_needed(risk, 0.95) == frames
    assert supports(0, frames, risk, 0.95)
    assert not supports(0, frames - 1, risk, 0.95)


def test_find_threshold_keeps_its_promise_over_many_draws() -> None:
    risk, broken, made = 0.2, 0, 0
    top, wrong = tops(honest(60_000, 99), 1.0)
    for seed in range(200):
        found = find_threshold(honest(300, seed), 1.0, risk=risk, confidence=0.95)
        if found is None:
            continue
        made += 1
        broken += bool(wrong[top >= found[0]].mean() > risk)
    assert made > 160
    assert broken <= 17  # at most 10 expected; 18 or more of 200 has a probability of 1.1 %


def test_calibrate_promise_holds_although_the_temperature_saw_the_same_labels() -> None:
    top_of = honest(60_000, 98, stretch=3.0)
    broken = 0
    for seed in range(100):
        fitted = calibrate(honest(300, 1000 + seed, stretch=3.0), fitted_on="cpu", risk=0.2)
        top, wrong = tops(top_of, fitted.temperature)
        chosen = top >= fitted.threshold
        broken += bool(chosen.any() and wrong[chosen].mean() > 0.2)
    assert broken <= 10  # at most 5 expected; 11 or more of 100 has a probability of 1 %


def test_find_threshold_loose_risk_covers_more_than_strict() -> None:
    data = honest(2000, 3)
    strict = find_threshold(data, 1.0, risk=0.1, confidence=0.95)
    loose = find_threshold(data, 1.0, risk=0.4, confidence=0.95)
    assert strict is not None
    assert loose is not None
    assert loose[1].coverage > strict[1].coverage


def test_calibrate_too_few_frames_makes_nothing_confident() -> None:
    result = calibrate(honest(8, 0), fitted_on="cpu", risk=0.05)
    assert result.promise is None
    assert result.threshold == NEVER
    assert (result.interval, result.mismatch) == (None, None)


def test_calibrate_answers_unrelated_to_the_truth_make_no_promise() -> None:
    rng = np.random.default_rng(0)
    data = Labelled(rng.normal(0, 5, (800, 5)).astype(np.float32), rng.integers(0, 5, 800))
    fitted = calibrate(data, fitted_on="cpu", risk=0.2)
    assert fitted.promise is None
    assert visits_needed(data, fitted.temperature, risk=0.2, confidence=0.95) is None


def test_count_without_a_promise_is_never_confident_even_at_probability_one() -> None:
    assert not count_from_posterior(np.array([1.0, 0.0]), ("0", "1"), NEVER).confident


def test_visits_needed_a_third_is_never_enough_and_four_times_it_mostly_is() -> None:
    few, risk = ordinal(200, 5, noise=0.4), 0.05
    temperature = fit_temperature(few)
    needed = visits_needed(few, temperature, risk=risk, confidence=0.95)
    assert needed is not None

    def successes(visits: int) -> int:
        drawn = (ordinal(visits, 100 + seed, noise=0.4) for seed in range(20))
        return sum(find_threshold(data, temperature, risk=risk, confidence=0.95) is not None for data in drawn)

    assert successes(needed // 3) == 0
    assert successes(4 * needed) >= 16


@pytest.mark.parametrize("truth", [[], [0, 7], [-1, 0]], ids=["empty", "beyond", "negative"])
def test_labelled_truth_that_does_not_fit_is_refused(truth: list[int]) -> None:
    with pytest.raises(InputError, match="not usable"):
        Labelled(np.zeros((len(truth), 5), np.float32), np.array(truth, np.int64))


@pytest.mark.parametrize("visits", [[0, 0, 2], [0, 1]], ids=["a visit without frames", "a frame without visit"])
def test_labelled_frames_that_do_not_fit_their_visits_are_refused(visits: list[int]) -> None:
    with pytest.raises(InputError, match="not usable"):
        Labelled(np.zeros((3, 5), np.float32), np.zeros(2, np.int64), np.array(visits, np.int64))


def test_labelled_posteriors_fuse_the_frames_of_a_visit_by_their_mean() -> None:
    logits = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
    data = Labelled(logits, np.array([1, 0]), visits=np.array([1, 0, 0]))
    assert data.posteriors(1.0)[1] == pytest.approx([0.5, 0.5])
    assert data.posteriors(1.0)[0] == pytest.approx([0.5, 0.5], abs=1e-4)
    again = data.take(np.array([1, 0, 1]))
    assert again.truth.tolist() == [0, 1, 0]
    assert again.posteriors(1.0)[1] == pytest.approx(data.posteriors(1.0)[0])
