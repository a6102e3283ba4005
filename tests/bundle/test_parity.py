from __future__ import annotations

import numpy as np
import pytest

from bundle.errors import ParityError
from bundle.manifest import ParityBudget
from bundle.parity import check_budget, compare

_BUDGET = ParityBudget(min_agreement=0.9, max_mean_tv=0.05, max_accuracy_drop=0.01)
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
        (np.array([[0, 2, 0], [0, 0, 0]]), np.array([0, 1]), "accuracy lost 0.5"),
    ],
    ids=["agreement", "distance", "accuracy"],
)
def test_check_budget_beyond_names_the_figure(
    noise: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    truth: np.ndarray[tuple[int], np.dtype[np.int64]] | None,
    message: str,
) -> None:
    result = compare("cpu", _REFERENCE, (_REFERENCE + noise).astype(np.float32), truth)
    with pytest.raises(ParityError, match=message):
        check_budget(result, _BUDGET)
