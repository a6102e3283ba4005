from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bundle.counter import Count
from edge_agent.config import QuotaSection
from edge_agent.outbox.budget import BinTally, UploadBudget, admit
from edge_agent.visits.decide import Rescans, reason_to_upload

if TYPE_CHECKING:
    from bundle.verdict import VerdictWord


def _count(*, confident: bool) -> Count:
    return Count(count=3, at_least=False, label="3", confidence=0.7, confident=confident, posterior=(0.3, 0.7))


@pytest.mark.parametrize(
    ("confident", "share", "draw", "expected"),
    [
        (False, 0.0, 0.9, "unsure"),
        (True, 0.0, 0.0, None),
        (True, 0.01, 0.009, "audit"),
        (True, 0.01, 0.01, None),
        (False, 1.0, 0.0, "unsure"),
    ],
)
def test_reason_to_upload_unsure_always_confident_by_draw(
    confident: bool,  # noqa: FBT001 - a column of the table
    share: float,
    draw: float,
    expected: str | None,
) -> None:
    assert reason_to_upload(_count(confident=confident), audit_share=share, draw=draw) == expected


@pytest.mark.parametrize(
    ("verdict", "draw", "expected"),
    [("match", 0.5, None), ("short", 0.5, "mismatch"), ("over", 0.5, "mismatch"), ("short", 0.0, "audit")],
)
def test_reason_to_upload_confident_mismatch_has_a_picture_and_the_sample_stays_a_sample(
    verdict: VerdictWord, draw: float, expected: str | None
) -> None:
    assert reason_to_upload(_count(confident=True), audit_share=0.01, draw=draw, verdict=verdict) == expected


def test_admit_counts_per_hour_and_opens_again() -> None:
    quota = QuotaSection(images_per_hour=2, images_per_day=100)
    budget, seen = UploadBudget(), []
    for now_s in (0.0, 10.0, 20.0, 3601.0):
        fits, budget = admit(budget, quota, size=1, now_s=now_s)
        seen.append(fits)
    assert seen == [True, True, False, True]


def test_admit_day_limits_images_and_bytes() -> None:
    quota = QuotaSection(images_per_hour=100, images_per_day=3, bytes_per_day=100)
    budget, seen = UploadBudget(), []
    for now_s, size in ((0.0, 60), (1.0, 60), (3700.0, 40), (7300.0, 0), (7400.0, 0), (86_401.0, 100)):
        fits, budget = admit(budget, quota, size=size, now_s=now_s)
        seen.append(fits)
    assert seen == [True, False, True, True, False, True]


def test_bin_tally_holds_each_bin_to_its_bound_and_begins_anew_every_day() -> None:
    tally = BinTally()
    assert [tally.admit("a", 2, 10.0) for _ in range(3)] == [True, True, False]
    assert tally.admit("b", 2, 10.0)
    assert tally.admit("a", None, 10.0)
    assert tally.admit("a", 2, 86_410.0)
    assert not tally.admit("c", 0, 86_410.0)


def test_bin_tally_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.outbox.budget.MAX_BINS", 3)
    tally = BinTally()
    for name in "abcd":
        tally.admit(name, 1, 0.0)
    assert len(tally._images) == 3
    assert not tally.admit("d", 1, 0.0)


def test_rescans_ask_once_an_hour_for_a_bin_and_no_more_than_allowed_in_all() -> None:
    rescans = Rescans()
    assert [rescans.admit(name, 2, 0.0) for name in ("a", "a", "b", "c")] == [True, False, True, False]
    assert not rescans.admit("a", 2, 3599.0)
    assert rescans.admit("a", 2, 3600.0)
    assert not Rescans().admit("a", 0, 0.0)
