from __future__ import annotations

import numpy as np
import pytest

from bundle.errors import ParityError
from bundle.manifest import ParityBudget
from bundle.parity import check_budget, compare, distances

_BUDGET = ParityBudget(min_agreement=0.9, max_mean_tv=0.05, max_accuracy_drop=0.01, min_sure_agreement=0.99)
_REFERENCE = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], np.float32))


def test_compare_equal_models_agree_entirely() -> None:
    result = compare("cpu", _REFERENCE, _REFERENCE, np.array([0, 1]))
    assert (result.agreement, result.mean_tv, result.max_abs_logit) == (1.0, 0.0, 0.0)
    assert (result.reference_accuracy, result.accuracy) == (1.0, 1.0)


def test_compare_known_posteriors_gives_the_hand_computed_distance() -> None:
    other = np.log(np.array([[0.3, 0.5, 0.2], [0.1, 0.8, 0.1]], np.float32))
    result = compare("cpu", _REFERENCE, other, np.array([0, 1]))
    assert result.agreement == 0.5
    assert result.mean_tv == pytest.approx(0.1, abs=1e-6)
    assert result.accuracy == 0.5


def test_compare_without_labels_leaves_accuracy_open() -> None:
    assert compare("cpu", _REFERENCE, _REFERENCE).accuracy is None


def test_check_budget_within_is_silent() -> None:
    check_budget(compare("cpu", _REFERENCE, _REFERENCE + np.float32(0.5)), _BUDGET)


@pytest.mark.parametrize(
    ("noise", "truth", "message"),
    [
        (np.array([[0, 2, 0], [0, 0, 0]]), None, "agreement 0.500"),
        (np.array([[0, 0.6, 0], [0, 0, 0]]), None, "total variation"),
        (np.array([[0, 2, 0], [3, 0, 0]]), np.array([0, 1]), "accuracy lost 1.0"),
        (np.array([[3, 0, 0], [3, 0, 0]]), None, "sure frames 0.0000"),
    ],
    ids=["agreement", "distance", "accuracy", "sure"],
)
def test_check_budget_beyond_names_the_figure(
    noise: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    truth: np.ndarray[tuple[int], np.dtype[np.int64]] | None,
    message: str,
) -> None:
    reference = _REFERENCE if "sure" not in message else _REFERENCE[[1, 1]]
    result = compare("cpu", reference, (reference + noise).astype(np.float32), truth)
    with pytest.raises(ParityError, match=message):
        check_budget(result, _BUDGET)


def test_check_budget_one_frame_lost_is_less_than_can_be_told() -> None:
    reference = np.tile(_REFERENCE, (10, 1))
    other = reference.copy()
    other[0] = other[0, [1, 0, 2]]
    result = compare("cpu", reference, other, np.tile([0, 1], 10))
    assert result.accuracy == 0.95
    check_budget(result, _BUDGET)


def test_check_budget_loss_of_exactly_the_budget_is_within() -> None:
    """145 of 400 right, then 143: as floats the difference is 0.0050000000000000044."""
    right, wrong = _REFERENCE[0], _REFERENCE[0, [1, 0, 2]]
    reference = np.stack([right] * 145 + [wrong] * 255)
    other = np.stack([right] * 143 + [wrong] * 257)
    result = compare("cpu", reference, other, np.zeros(400, np.int64))
    check_budget(result, _BUDGET.model_copy(update={"max_accuracy_drop": 0.005}))


def test_compare_interval_of_the_loss_is_paired() -> None:
    """Frames on which both are right or both wrong carry no uncertainty about the loss."""
    reference = np.tile(_REFERENCE, (50, 1))
    same = compare("cpu", reference, reference, np.zeros(100, np.int64))
    other = reference.copy()
    other[:2] = other[:2, [1, 0, 2]]
    low, high = compare("cpu", reference, other, np.tile([0, 1], 50)).accuracy_drop_ci or (0, 0)
    assert same.accuracy_drop_ci == (0.0, 0.0)
    assert low == pytest.approx(0.02 - 1.96 * 0.014, abs=1e-3)
    assert high == pytest.approx(0.02 + 1.96 * 0.014, abs=1e-3)


def test_distances_are_per_frame() -> None:
    other = np.log(np.array([[0.3, 0.5, 0.2], [0.1, 0.8, 0.1]], np.float32))
    np.testing.assert_allclose(distances(_REFERENCE, other), [0.2, 0.0], atol=1e-6)
