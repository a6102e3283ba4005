from __future__ import annotations

import numpy as np
import pytest

from bundle.counter import posterior_from_logits
from calibration.labelled import Labelled
from calibration.scaling import fit_ordinal, fit_scaling, fit_temperature, negative_log_likelihood
from tests.calibration.populations import honest, ordinal


def _leaning(visits: int, seed: int) -> Labelled:
    """A network that counts low: its logits lack 2 u, where u runs from -1 to 1."""
    data = honest(visits, seed, sharpness=2.0)
    return Labelled(data.logits - 2 * np.linspace(-1, 1, 5).astype(np.float32), data.truth)


def test_posterior_tilt_and_curvature_favour_high_counts_and_both_ends() -> None:
    flat = np.zeros((1, 5), np.float32)
    assert np.all(np.diff(posterior_from_logits(flat, 1.0, (1.0, 0.0))[0]) > 0)
    bent = posterior_from_logits(flat, 1.0, (0.0, 1.0))[0]
    assert bent[0] == pytest.approx(bent[4])
    assert bent[0] > bent[2]


def test_fit_ordinal_finds_the_lean_that_was_put_in() -> None:
    temperature, (tilt, curvature) = fit_ordinal(_leaning(4000, 1))
    assert temperature == pytest.approx(1.0, abs=0.08)
    assert tilt == pytest.approx(2.0, abs=0.2)
    assert curvature == pytest.approx(0.0, abs=0.2)


def test_fit_scaling_takes_the_ordinal_part_where_it_wins_and_counts_get_better() -> None:
    data, new = _leaning(200, 1), _leaning(3000, 2)
    temperature, found = fit_scaling(data)
    assert found is not None
    plain = fit_temperature(data)
    assert negative_log_likelihood(new, temperature, found) < negative_log_likelihood(new, plain) - 0.05
    right = [(new.posteriors(*how).argmax(axis=1) == new.truth).mean() for how in ((temperature, found), (plain,))]
    assert right[0] > right[1] + 0.03


def test_fit_scaling_leaves_an_upright_network_alone() -> None:
    taken = [fit_scaling(honest(200, seed))[1] is not None for seed in range(40)]
    assert sum(taken) <= 4


def test_fit_scaling_few_visits_get_a_temperature_alone() -> None:
    assert fit_scaling(_leaning(60, 1))[1] is None


def test_fit_ordinal_labels_of_one_class_alone_stay_finite() -> None:
    data = ordinal(200, 1)
    temperature, bend = fit_ordinal(Labelled(data.logits, np.full(200, 2)))
    assert np.isfinite([temperature, *bend]).all()
    assert np.isfinite(data.posteriors(temperature, bend)).all()
