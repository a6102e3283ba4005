from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.interval import interval_from_posterior, mass_before
from bundle.manifest import IntervalRule

_CLASSES = ("0", "1", "2", "3", "4+")


def _interval(posterior: list[float], mass: float) -> tuple[int, int, bool, str]:
    found = interval_from_posterior(np.array(posterior), _CLASSES, IntervalRule(coverage=0.9, mass=mass, frames=9))
    return found.low, found.high, found.at_least, found.label


@pytest.mark.parametrize(
    ("posterior", "mass", "expected"),
    [
        ([0.0, 0.1, 0.6, 0.3, 0.0], 0.5, (2, 2, False, "2")),
        ([0.0, 0.1, 0.6, 0.3, 0.0], 0.7, (2, 3, False, "2 to 3")),
        ([0.0, 0.1, 0.6, 0.3, 0.0], 0.95, (1, 3, False, "1 to 3")),
        ([0.0, 0.0, 0.1, 0.5, 0.4], 0.6, (3, 4, True, "3 or more")),
        ([0.0, 0.0, 0.0, 0.1, 0.9], 0.5, (4, 4, True, "4 or more")),
        # Far from the mode another peak does not join before the classes between have: an interval has no holes.
        ([0.4, 0.1, 0.1, 0.1, 0.3], 0.65, (0, 3, False, "0 to 3")),
        ([0.2, 0.2, 0.2, 0.2, 0.2], 1.0, (0, 4, True, "0 or more")),
    ],
)
def test_interval_grows_towards_the_more_probable_side(
    posterior: list[float], mass: float, expected: tuple[int, int, bool, str]
) -> None:
    assert _interval(posterior, mass) == expected


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9).filter(lambda raw: sum(raw) > 0.1), st.floats(0, 1))
def test_mass_before_members_are_one_run_around_the_mode(raw: list[float], mass: float) -> None:
    posterior = np.array(raw) / sum(raw)
    members = np.flatnonzero(mass_before(posterior) <= mass)
    assert members[-1] - members[0] == len(members) - 1
    assert int(posterior.argmax()) in members
