from __future__ import annotations

import numpy as np
import pytest

from bundle.interval import mass_before
from bundle.verdict import sides
from calibration.confidence import fit_temperature
from calibration.conformal import conformal_quantile, fit_interval, fit_mismatch
from tests.calibration.populations import ordinal


@pytest.mark.parametrize(
    ("number", "level", "expected"),
    [(9, 0.9, 9.0), (8, 0.9, None), (19, 0.9, 18.0), (99, 0.9, 90.0), (19, 0.95, 19.0), (18, 0.95, None)],
)
def test_conformal_quantile_is_the_rank_that_the_theorem_names(
    number: int, level: float, expected: float | None
) -> None:
    assert conformal_quantile(np.arange(1.0, number + 1), level) == expected


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_fit_interval_covers_the_stated_share_of_new_visits(coverage: float) -> None:
    temperature = fit_temperature(ordinal(2000, 0))
    covered = []
    for seed in range(60):
        data, new = ordinal(200, 2 * seed + 1), ordinal(200, 2 * seed + 2)
        rule = fit_interval(data.posteriors(temperature), data.truth, coverage=coverage)
        assert rule is not None
        masses = np.stack([mass_before(row) for row in new.posteriors(temperature)])
        covered.append((masses[np.arange(len(new)), new.truth] <= rule.mass).mean())
    assert np.mean(covered) == pytest.approx(coverage, abs=0.015)


def test_fit_mismatch_contradicts_as_few_right_records_as_stated_and_most_gross_errors() -> None:
    temperature = fit_temperature(ordinal(2000, 0))
    alarms, found = [], []
    for seed in range(40):
        data, new = ordinal(200, 2 * seed + 1), ordinal(200, 2 * seed + 2)
        rule = fit_mismatch(data.posteriors(temperature), data.truth, false_alarm=0.05)
        assert rule is not None
        for row, truth in zip(new.posteriors(temperature), new.truth, strict=True):
            below, _, above = sides(row, int(truth))
            alarms.append(max(below, above) > rule.tail)
            if truth + 3 < len(row):
                found.append(sides(row, int(truth) + 3)[0] > rule.tail)
    assert np.mean(alarms) <= 0.06
    assert np.mean(found) > 0.9


def test_rules_too_few_visits_for_the_level_give_none() -> None:
    data = ordinal(8, 0)
    assert fit_interval(data.posteriors(2.0), data.truth, coverage=0.9) is None
    assert fit_mismatch(data.posteriors(2.0), data.truth, false_alarm=0.05) is None
