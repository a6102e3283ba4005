from __future__ import annotations

import numpy as np
import pytest

from calibration.assess import (
    Wish,
    calibration_error,
    calibration_error_floor,
    cross_fit,
    folds_of,
    mismatches,
    reliability,
    risk_coverage,
)
from calibration.labelled import Labelled
from tests.calibration.populations import honest, ordinal


def test_folds_of_never_split_a_group() -> None:
    groups = np.repeat(np.arange(40), 3)
    data = Labelled(np.zeros((120, 3), np.float32), np.zeros(120, np.int64), groups=groups)
    folds = folds_of(data, 5)
    assert sorted(np.unique(folds).tolist()) == [0, 1, 2, 3, 4]
    assert all(len(np.unique(folds[groups == group])) == 1 for group in range(40))


def test_cross_fit_repairs_an_overconfident_network() -> None:
    data = honest(3000, 4, stretch=3.0)
    unseen = cross_fit(data, Wish(risk=0.2))
    after = calibration_error(unseen.posterior, unseen.truth)
    assert calibration_error(data.posteriors(1.0), data.truth) > 0.08
    assert after < 0.03
    assert after < 2 * calibration_error_floor(unseen.posterior)


def test_cross_fit_keeps_what_it_promises_on_unseen_visits() -> None:
    unseen = cross_fit(ordinal(3000, 4, noise=0.4), Wish(risk=0.1, coverage=0.9, false_alarm=0.05))
    assert unseen.confident.mean() > 0.2
    assert (~unseen.right)[unseen.confident].mean() <= 0.1
    assert unseen.inside.mean() == pytest.approx(0.9, abs=0.02)
    alarms = mismatches(unseen, 0)
    assert alarms == pytest.approx(0.05, abs=0.015)


def test_mismatches_grow_with_the_error_of_the_record() -> None:
    unseen = cross_fit(ordinal(1000, 4), Wish())
    shares = [mismatches(unseen, offset) for offset in (0, 1, 2, 3)]
    assert shares == sorted(share for share in shares if share is not None)
    assert shares[-1] is not None
    assert shares[-1] > 0.9
    assert mismatches(unseen, 9) is None


def test_reliability_rows_account_for_every_visit() -> None:
    data = honest(500, 1)
    rows = reliability(data.posteriors(1.0), data.truth)
    assert sum(row.visits for row in rows) == 500
    assert sum(row.share * row.right for row in rows) == pytest.approx((data.logits.argmax(1) == data.truth).mean())


def test_risk_coverage_ends_at_the_error_of_all_visits() -> None:
    posterior = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3]])
    curve, area = risk_coverage(posterior, np.array([0, 1, 0, 0]))
    assert curve.tolist() == [0, 0, 0, 0.25]
    assert area == 0.0625
