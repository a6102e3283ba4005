from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.config import QuotaSection
from edge_agent.outbox.budget import UploadBudget
from edge_agent.outbox.quota import Quota, Spent, Stored
from edge_agent.outbox.rows import Entry, ImageEntry
from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.test_outbox import Clock, ledger_in
from tests.edge_agent.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

_LIMITS = QuotaSection(images_per_hour=3, images_per_day=4, images_per_bin_per_day=2)


def _with_image(number: int, spent: Spent) -> Entry:
    return Entry(f"e{number}", "count", "t", b"{}", image=ImageEntry(f"p/{number}.jpg", b"x" * 100, b"{}", spent))


def test_quota_table_tells_the_next_run_what_was_let_through(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger:
        ledger.commit([_with_image(n, Spent(5, 0, "a")) for n in range(2)], [])
        ledger.commit([_with_image(2, Spent(6, 0, "b"))], [])
    with ledger_in(tmp_path) as ledger:
        assert ledger.file.quota_stored() == Stored(UploadBudget(6, 0, 1, 3, 300), {"a": 2, "b": 1})
        ledger.commit([_with_image(3, Spent(30, 1, "b"))], [])
        with ledger.file.transaction():
            ledger.file.quota.forget()
        assert ledger.file.quota_stored() == Stored(UploadBudget(30, 1, 1, 1, 100), {"b": 1})


def test_quota_goes_on_where_the_last_run_ended() -> None:
    clock = Clock()
    quota = Quota(Stored(UploadBudget(0, 0, 2, 2, 200), {"a": 2}), clock)
    assert quota.admit("a", 100, _LIMITS) is None
    assert quota.admit("b", 100, _LIMITS) == Spent(0, 0, "b")
    assert quota.admit("c", 100, _LIMITS) is None
    clock.now_s = 3601.0
    assert quota.admit("c", 100, _LIMITS) == Spent(1, 0, "c")
    assert quota.admit("d", 100, _LIMITS) is None
    clock.now_s = 86_401.0
    assert quota.admit("a", 100, _LIMITS) == Spent(24, 1, "a")


@pytest.mark.parametrize(("hour", "admitted"), [(1, 0), (9_999_999, 0)])
def test_quota_of_an_hour_that_has_not_come_yet_is_neither_forgotten_nor_kept_for_ever(
    hour: int, admitted: int
) -> None:
    clock = Clock()
    quota = Quota(Stored(UploadBudget(hour, 0, 3, 3, 300)), clock)
    assert sum(quota.admit("a", 1, _LIMITS) is not None for _ in range(5)) == admitted
    clock.now_s = 2 * 3600.0
    assert quota.admit("a", 1, _LIMITS) is not None


def test_agent_killed_and_started_again_respects_the_quota_of_images(tmp_path: Path, tiny_bundle: Path) -> None:
    photos, uploads = write_photos(tmp_path / "photos", [1.5, 2.5, 3.5, 4.5]), tmp_path / "up"
    text = config_text(
        bundle=tiny_bundle,
        source=photos,
        state=tmp_path / "state",
        camera="repeat = true\npause_s = 0.01",
        rest=f'[uploads]\nfolder = "{uploads}"\n[uploads.quota]\nimages_per_hour = 6\n',
    )
    with_image = []
    for counts in (4, 8, 4):
        agent = AgentProcess.start(tmp_path, text)
        wait_until(lambda agent=agent, counts=counts: len(agent.counts) >= counts)  # type: ignore[misc]  # bound now
        agent.kill()
        with_image.append(sum(count["image_key"] is not None for count in agent.counts))
    assert with_image[0] >= 4
    assert sum(with_image) <= 6
    assert with_image[2] == 0
