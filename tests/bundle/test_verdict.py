from __future__ import annotations

import numpy as np
import pytest

from bundle.manifest import Calibration, MismatchRule
from bundle.verdict import judge_record

_CLASSES = ("0", "1", "2", "3", "4", "5", "6+")
_RULE = MismatchRule(false_alarm=0.05, tail=0.9, frames=100)
_FITTED = Calibration(temperature=1.0, threshold=0.8, mismatch=_RULE)

_TWO = [0.01, 0.04, 0.9, 0.04, 0.01, 0.0, 0.0]
_ONE_OR_TWO = [0.0, 0.5, 0.49, 0.01, 0.0, 0.0, 0.0]
_MANY = [0.0, 0.0, 0.0, 0.0, 0.02, 0.08, 0.9]


@pytest.mark.parametrize(
    ("posterior", "record", "word"),
    [
        (_TWO, 2, "match"),
        (_TWO, 3, "short"),  # 95 % lie below
        (_TWO, 1, "over"),
        (_ONE_OR_TWO, 5, "short"),  # unsure of the count, sure that it is not five
        (_ONE_OR_TWO, 2, "unsure"),
        (_ONE_OR_TWO, 0, "over"),
        (_MANY, 6, "match"),
        (_MANY, 40, "match"),  # "6+" is at least six: it agrees with forty
        (_MANY, 4, "over"),
        ([1 / 7] * 7, 3, "unsure"),
    ],
)
def test_judge_record_reads_the_whole_posterior(posterior: list[float], record: int, word: str) -> None:
    assert judge_record(np.array(posterior), _CLASSES, record, _FITTED).word == word


def test_judge_record_gives_the_mass_behind_its_word() -> None:
    assert judge_record(np.array(_TWO), _CLASSES, 3, _FITTED).probability == pytest.approx(0.95)


def test_judge_record_beyond_closed_classes_is_unsure() -> None:
    # A network that knows 1 to 3 says 3 for a bin of 9; that must not be called short.
    assert judge_record(np.array([0.0, 0.0, 1.0]), ("1", "2", "3"), 9, _FITTED).word == "unsure"
    assert judge_record(np.array([1.0, 0.0, 0.0]), ("1", "2", "3"), 0, _FITTED).word == "unsure"


@pytest.mark.parametrize(("threshold", "word"), [(0.8, "short"), (0.97, "unsure"), (1.0, "unsure")])
def test_judge_record_without_a_mismatch_rule_asks_for_the_threshold(threshold: float, word: str) -> None:
    assert judge_record(np.array(_TWO), _CLASSES, 3, Calibration(threshold=threshold)).word == word


def test_judge_record_without_any_promise_never_says_match() -> None:
    certain = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert judge_record(certain, _CLASSES, 1, Calibration(threshold=1.0)).word == "unsure"
