from __future__ import annotations

import numpy as np
import pytest

from bundle.drift import DriftEvent, DriftMonitor, DriftReference, make_reference, parse_reference, ranks
from bundle.errors import ManifestError
from bundle.signals import SIGNALS, VIEW_WH

_VIEW = np.zeros((VIEW_WH[1], VIEW_WH[0]), np.float32)
_UNSURE = SIGNALS.index("unsure")
_QUIET_VISITS = 200


def _visits(number: int, seed: int, *, memory: float = 0.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Signals of normal operation; `memory` ties a visit to the one before."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(0, 1, (number, len(SIGNALS)))
    if memory:
        for row in range(1, number):
            signals[row] = memory * signals[row - 1] + np.sqrt(1 - memory**2) * signals[row]
    signals[:, _UNSURE] = rng.random(number) < 0.3
    return signals


def _reference(visits: int = 400, seed: int = 0) -> DriftReference:
    return make_reference(_visits(visits, seed), _VIEW)


def _events(monitor: DriftMonitor, signals: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[DriftEvent]:
    return [event for row in signals if (event := monitor.update(row)) is not None]


@pytest.mark.parametrize("memory", [0.0, 0.3])
def test_monitor_unchanged_visits_raise_no_alarm(memory: float) -> None:
    # At most 1 in 5,000 is asked for; five references of a few hundred visits each are watched for 3,000.
    for seed in range(5):
        monitor = DriftMonitor(_reference(seed=seed))
        assert _events(monitor, _visits(3000, 100 + seed, memory=memory)) == []


@pytest.mark.parametrize("signal", [name for name in SIGNALS if name != "unsure"])
@pytest.mark.parametrize("change", [-1.0, 1.0])
def test_monitor_a_shift_by_one_standard_deviation_is_named_within_200_visits(signal: str, change: float) -> None:
    signals = _visits(200, 7)
    signals[:, SIGNALS.index(signal)] += change
    (event,) = _events(DriftMonitor(_reference()), signals)
    assert event.kind == "drift"
    assert (event.drifted[0].signal, event.drifted[0].direction) == (signal, "up" if change > 0 else "down")
    assert len(event.drifted) == 1
    assert event.words == f"{signal} {event.drifted[0].direction}"


def test_monitor_more_unsure_visits_are_noticed() -> None:
    signals = _visits(200, 7)
    signals[:, _UNSURE] = np.random.default_rng(1).random(200) < 0.9
    (event,) = _events(DriftMonitor(_reference()), signals)
    assert event.words == "unsure up"


def test_monitor_one_drift_gives_one_event_and_its_end_another() -> None:
    monitor = DriftMonitor(_reference())
    dark = _visits(1500, 8)
    dark[:, 0] -= 2
    assert [event.kind for event in _events(monitor, dark)] == ["drift"]
    assert [monitor.drifting] == [True]
    assert [event.kind for event in _events(monitor, _visits(1500, 9))] == ["drift_over"]
    assert [monitor.drifting] == [False]
    assert [event.kind for event in _events(monitor, dark)] == ["drift"]


def test_monitor_a_small_drift_that_lasts_is_told_once() -> None:
    signals = _visits(3000, 12)
    signals[:, 0] += 0.6
    assert [event.kind for event in _events(DriftMonitor(_reference()), signals)] == ["drift"]


@pytest.mark.parametrize("extreme", [-1e9, 1e9])
@pytest.mark.parametrize("visits", [100, 5000])
def test_monitor_values_beyond_anything_seen_stay_finite(extreme: float, visits: int) -> None:
    monitor = DriftMonitor(_reference(visits))
    everything = np.full((60, len(SIGNALS)), extreme)
    (event,) = _events(monitor, everything)
    assert event.visit < 40
    assert len(event.drifted) == len(SIGNALS)


def test_ranks_of_the_reference_itself_average_one_half() -> None:
    signals = _visits(1000, 3)
    reference = make_reference(signals, _VIEW)
    found = np.mean([ranks(row, reference) for row in signals], axis=0)
    assert found == pytest.approx(0.5, abs=0.01)


def test_reference_survives_its_file() -> None:
    reference = _reference()
    assert parse_reference(reference.model_dump_json().encode(), name="drift.json") == reference


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [('"visits":400', '"visits":3', "visits"), ('"brightness"', '"light"', "drift.json"), ("{", "[", "drift.json")],
)
def test_reference_that_is_wrong_is_refused(before: str, after: str, where: str) -> None:
    text = _reference().model_dump_json().replace(before, after, 1)
    with pytest.raises(ManifestError, match=f"is not valid at {where}"):
        parse_reference(text.encode(), name="drift.json")


def test_reference_quantiles_that_fall_are_refused() -> None:
    content = _reference().model_dump()
    content["signals"][0]["quantiles"] = content["signals"][0]["quantiles"][::-1]
    with pytest.raises(ValueError, match="quantiles must not fall"):
        DriftReference.model_validate(content)
