"""What the tour adds up."""

from __future__ import annotations

from typing import Any

import pytest

from bundle.errors import DeliveryError
from demo.tally import Summary, Tally, is_right


def message(bin_id: str = "a", count: int = 2, **changes: object) -> dict[str, Any]:
    content = {
        "bin_id": bin_id,
        "count": count,
        "label": str(count),
        "at_least": False,
        "confidence": 0.9,
        "confident": True,
        "verdict": "match",
        "record": count,
        "latency_ms": 5.0,
    }
    return {**content, **changes}


@pytest.mark.parametrize(
    ("count", "truth", "at_least", "right"),
    [
        (3, 3, False, True),
        (3, 4, False, False),
        (6, 6, True, True),
        (6, 11, True, True),
        (6, 5, True, False),
        (6, 7, False, False),
        (0, 0, False, True),
    ],
)
def test_is_right(count: int, truth: int, *, at_least: bool, right: bool) -> None:
    assert is_right(count, truth, at_least=at_least) is right


def test_tally_of_some_visits_gives_the_summary() -> None:
    tally = Tally({"a": 2, "b": 3, "c": 9})
    tally.add(message("a", 2, latency_ms=4.0))
    tally.add(message("b", 2, latency_ms=6.0, confident=False, verdict="unsure"))
    tally.add(message("c", 6, latency_ms=50.0, at_least=True, label="6+"))
    tally.add(message("d", 6, latency_ms=5.0, verdict=None, record=None))  # nobody knows
    assert tally.summary(frames=5, accepted=5, received=4, uploaded=1) == Summary(
        frames=5, accepted=5, received=4, lost=1, unsure=1, uploaded=1, accuracy=0.6667, p50_ms=5.0, p99_ms=50.0
    )
    assert tally.verdicts == {"match": 2, "unsure": 1}


def test_tally_of_nothing_claims_nothing() -> None:
    summary = Tally({}).summary(frames=0, accepted=0, received=0, uploaded=0)
    assert (summary.accuracy, summary.p50_ms, summary.p99_ms, summary.lost) == (None, None, None, 0)


def test_tally_percentiles_are_nearest_ranks() -> None:
    tally = Tally({})
    for number in range(1, 101):
        tally.add(message(latency_ms=float(number)))
    summary = tally.summary(frames=0, accepted=0, received=0, uploaded=0)
    assert (summary.p50_ms, summary.p99_ms) == (50.0, 99.0)


@pytest.mark.parametrize("name", ["bin_id", "count", "at_least", "latency_ms", "verdict"])
def test_tally_message_without_a_promised_field_is_refused(name: str) -> None:
    content = message()
    del content[name]
    with pytest.raises(DeliveryError, match=name):
        Tally({"a": 2}).add(content)
