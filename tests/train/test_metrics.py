from __future__ import annotations

import math

import numpy as np
import pytest

from bundle.errors import InputError
from train.metrics import Judged, brief, judge, measure, wilson

CLASSES = ("1", "2", "3+")
# Five photos; answers 1, 2, 2, 3+, 1 for the truths 1, 2, 3+, 3+, 3+.
TRUTH = np.array([0, 1, 2, 2, 2])
POSTERIOR = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.2, 0.6, 0.2],
        [0.1, 0.5, 0.4],
        [0.0, 0.1, 0.9],
        [0.7, 0.2, 0.1],
    ]
)


@pytest.fixture
def judged() -> Judged:
    return judge(TRUTH, POSTERIOR, CLASSES)


def test_measure_matches_the_table_counted_by_hand(judged: Judged) -> None:
    found = measure(judged, CLASSES)
    assert found["n"] == 5
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["within_1"] == pytest.approx(4 / 5)
    assert found["mae"] == pytest.approx((0 + 0 + 1 + 0 + 2) / 5)
    assert found["rmse"] == pytest.approx(math.sqrt((1 + 4) / 5))
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 1, 1]]


def test_measure_posterior_mean_is_not_rounded(judged: Judged) -> None:
    means = [0.8 + 0.2 + 0.3, 0.2 + 1.2 + 0.6, 0.1 + 1.0 + 1.2, 0.2 + 2.7, 0.7 + 0.4 + 0.3]
    squares = [(mean - true) ** 2 for mean, true in zip(means, [1, 2, 3, 3, 3], strict=True)]
    assert measure(judged, CLASSES)["rmse_posterior_mean"] == pytest.approx(math.sqrt(sum(squares) / 5))


def test_measure_per_class_matches_the_table(judged: Judged) -> None:
    found = measure(judged, CLASSES)
    rows = [[row[name] for name in ("precision", "recall", "f1", "support")] for row in found["per_class"].values()]
    assert np.array(rows) == pytest.approx(np.array([[1 / 2, 1, 2 / 3, 1], [1 / 2, 1, 2 / 3, 1], [1, 1 / 3, 1 / 2, 3]]))
    assert found["macro_precision"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert found["macro_recall"] == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 2) / 3)


def test_measure_per_class_every_figure_lies_in_its_interval(judged: Judged) -> None:
    per_class = measure(judged, CLASSES)["per_class"]
    assert per_class["3+"]["precision_ci"] == wilson(1, 1)
    assert per_class["3+"]["recall_ci"] == wilson(1, 3)
    for row in per_class.values():
        for name in ("precision", "recall", "f1"):
            low, high = row[f"{name}_ci"]
            assert low <= row[name] <= high


def test_measure_class_that_never_occurs_has_an_open_interval() -> None:
    judged = judge(np.array([0, 0]), np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]]), CLASSES)
    assert measure(judged, CLASSES)["per_class"]["3+"]["recall_ci"] == (0.0, 1.0)


def test_measure_aurc_is_the_mean_risk_over_coverage(judged: Judged) -> None:
    # By falling confidence: hit, hit, miss, hit, miss.
    assert measure(judged, CLASSES)["aurc"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)


def test_measure_ece_is_the_gap_per_bin_of_confidence(judged: Judged) -> None:
    # Every confidence (0.8, 0.6, 0.5, 0.9, 0.7) lies in a fifteenth of its own; hits are 1, 1, 0, 1, 0.
    expected = (0.2 + 0.4 + 0.5 + 0.1 + 0.7) / 5
    assert measure(judged, CLASSES)["ece"] == pytest.approx(expected)


def test_measure_every_estimate_lies_in_its_interval(judged: Judged) -> None:
    found = measure(judged, CLASSES)
    macro = ("macro_precision", "macro_recall", "macro_f1")
    for name in ("accuracy", "rmse", "rmse_posterior_mean", "mae", "within_1", "ece", "aurc", *macro):
        low, high = found[f"{name}_ci"]
        assert low <= found[name] <= high, name


def test_brief_agrees_with_measure(judged: Judged) -> None:
    full = measure(judged, CLASSES)
    assert brief(judged) == pytest.approx({name: full[name] for name in brief(judged)})


@pytest.mark.parametrize(
    ("hits", "trials", "expected"),
    # Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_matches_published_intervals(hits: int, trials: int, expected: tuple[float, float]) -> None:
    assert wilson(hits, trials) == pytest.approx(expected, abs=5e-5)


def test_bootstrap_same_photos_for_two_models_is_reproducible(judged: Judged) -> None:
    assert measure(judged, CLASSES) == measure(judged, CLASSES)


@pytest.mark.parametrize(
    ("truth", "posterior"),
    [
        (np.array([], dtype=np.int64), np.empty((0, 3))),
        (np.array([0]), np.ones((1, 2)) / 2),
        (np.array([-1]), np.ones((1, 3)) / 3),
        (np.array([3]), np.ones((1, 3)) / 3),
        (np.array([0]), np.full((1, 3), np.nan)),
    ],
)
def test_judge_what_does_not_belong_together_is_refused(truth: np.ndarray, posterior: np.ndarray) -> None:
    with pytest.raises(InputError):
        judge(truth, posterior, CLASSES)
