from __future__ import annotations

import pytest

from bundle.counter import Count
from edge_agent.config import QuotaSection
from edge_agent.decide import UploadBudget, admit, reason_to_upload


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
