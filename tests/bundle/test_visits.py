from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from bundle.visits import VisitRecord, write_visit
from calibration.visits import read_records

if TYPE_CHECKING:
    from pathlib import Path

_RECORD = VisitRecord(
    visit="v1", bin_id="A/7", frames=("v1-0.jpg", "v1-1.jpg"), captured_at=datetime(2026, 1, 1, tzinfo=timezone.utc)
)


def test_write_visit_is_read_back_by_calibration(tmp_path: Path) -> None:
    write_visit(tmp_path, _RECORD, [b"one", b"two"])
    (visit,) = read_records(tmp_path)
    assert (visit.name, visit.bin_id, visit.label) == ("v1", "A/7", None)
    assert [frame.read_bytes() for frame in visit.frames] == [b"one", b"two"]


def test_write_visit_frames_without_a_record_are_no_visit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        write_visit(tmp_path, _RECORD, [b"one"])
    assert read_records(tmp_path) == []


@pytest.mark.parametrize("name", ["../v", "a/b", ".hidden", ""])
def test_visit_record_names_that_leave_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        VisitRecord(visit=name, bin_id="A", frames=("v.jpg",))
    with pytest.raises(ValidationError):
        VisitRecord(visit="v", bin_id="A", frames=(name,))
