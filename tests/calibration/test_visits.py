from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bundle.errors import InputError
from calibration.layouts import read_visits
from calibration.visits import read_records
from tests.calibration.scenes import write_records

if TYPE_CHECKING:
    from pathlib import Path


def _table(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "visits.csv").write_text(text, encoding="utf-8")
    return folder


def test_table_rows_with_one_visit_are_its_frames(tmp_path: Path) -> None:
    folder = _table(tmp_path / "t", "photo,count,visit,bin_id\na.jpg,3,v,A\nb.jpg,3,v,A\nc.jpg,,,\n")
    first, second = read_visits(folder)
    assert [frame.name for frame in first.frames] == ["a.jpg", "b.jpg"]
    assert (first.bin_id, first.label) == ("A", 3)
    assert (second.name, second.bin_id, second.label) == ("c.jpg", "c.jpg", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo\na.jpg\n", "misses a column"),
        ("photo,count\na.jpg,three\n", "line 2: count is no count"),
        ("photo,count\na.jpg,-1\n", "line 2: count is no count"),
        ("photo,count\n../a.jpg,1\n", "line 2: photo is no file name"),
        ("photo,count\n,1\n", "line 2: photo is no file name"),
        ("photo,count,visit\na.jpg,1,v\nb.jpg,2,v\n", "line 3: visit 'v' has two counts"),
        ("photo,count\n", "holds no visits"),
    ],
)
def test_table_that_is_wrong_is_refused_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_visits(_table(tmp_path / "t", text))


def test_dataset_neighbours_that_share_an_article_are_one_bin(tmp_path: Path) -> None:
    articles = {"00007": ["a", "b"], "00008": ["b"], "00009": ["c"], "8": ["b"], "00011": ["c"]}
    for folder in ("bin-images", "metadata"):
        (tmp_path / folder).mkdir()
    for name, codes in articles.items():
        (tmp_path / "bin-images" / f"{name}.jpg").touch()
        content = {"EXPECTED_QUANTITY": len(codes), "BIN_FCSKU_DATA": {code: {} for code in codes}}
        (tmp_path / "metadata" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    found = {visit.name: (visit.bin_id, visit.label) for visit in read_visits(tmp_path)}
    assert found == {
        "8": ("8", 1),
        "00007": ("00007", 2),
        "00008": ("00007", 1),
        "00009": ("00009", 1),
        "00011": ("00011", 1),
    }


def test_records_are_read_once_and_the_folder_may_grow(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "visits", 3, 0)
    first = read_records(folder)
    write_records(folder, 2, 1, start=3)
    later = read_records(folder, seen=frozenset(f"{visit.name}.json" for visit in first))
    assert [visit.name for visit in later] == ["v00003", "v00004"]
    assert all(visit.label is not None and visit.frames[0].is_file() for visit in later)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ('{"visit": "v", "bin_id": "A", "frames": ["../v.jpg"]}', "frames.0"),
        ('{"visit": "v", "bin_id": "A", "frames": []}', "frames"),
        ('{"visit": "v", "bin_id": "A", "frames": ["v.jpg"], "label": -1}', "label"),
        ('{"visit": "v", "bin_id": "A", "frames": ["v.jpg"], "count": 3}', "count"),
        ("not json", "the file"),
    ],
)
def test_record_that_is_wrong_is_refused_by_key(tmp_path: Path, content: str, where: str) -> None:
    (tmp_path / "v.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"at {where}"):
        read_records(tmp_path)
