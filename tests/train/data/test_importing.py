from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

from bundle.errors import InputError
from tests.train.data.sources import AbidSource, jpeg, pairs_source, write_csv
from train.data.columns import MANIFEST_NAME, NOTICES_NAME, REJECTED_NAME
from train.data.importing import Imported, ImportOptions, import_abid, import_listing
from train.data.layouts import detect_layout, list_abid, list_csv, list_folders
from train.data.manifest import Dataset

if TYPE_CHECKING:
    from pathlib import Path


def _import(source: Path, out: Path) -> Imported:
    return import_abid(source, out, workers=1)


def _kinds(done: Imported) -> dict[str, str]:
    return {entry.name: entry.kind for entry in done.rejected}


def _huge_png() -> bytes:
    """30000 x 30000 pixels in a hundred bytes."""
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + chunk + end


def test_import_abid_takes_counts_contents_and_measures(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("00002", 3, ["B1", "A1"], data=jpeg(5, width=60, height=30))
    source.add("00010", 0)
    done = _import(source.folder, tmp_path / "set")
    dataset = done.dataset
    assert dataset.ids.to_pylist() == ["00002", "00010"]
    assert dataset.counts.tolist() == [3, 0]
    assert dataset.asins.to_pylist() == [["A1", "B1"], []]
    assert (dataset.widths[0], dataset.heights[0]) == (60, 30)
    assert (dataset.blurs > 0).all()
    assert (dataset.brightnesses > 1).all()
    assert dataset.path_of(0).read_bytes() == source.photos["00002"]
    assert done.rejected == ()


def test_import_two_runs_any_workers_give_equal_bytes(tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "source", bins=60)
    first = import_abid(source.folder, tmp_path / "one", workers=1)
    second = import_abid(source.folder, tmp_path / "two", workers=2)
    third = import_abid(source.folder, tmp_path / "one", workers=1, overwrite=True)
    read = [(tmp_path / name / MANIFEST_NAME).read_bytes() for name in ("one", "two")]
    assert read[0] == read[1]
    assert first.dataset.digest == second.dataset.digest == third.dataset.digest


@pytest.mark.parametrize(
    ("path", "data", "kind", "words"),
    [
        ("bin-images/00090.jpg", jpeg(1)[:-60], "photo_unreadable", "truncated"),
        ("bin-images/00090.jpg", b"this is text", "photo_unreadable", "not a photo"),
        ("bin-images/00090.jpg", b"", "photo_unreadable", "not a photo"),
        ("bin-images/00090.png", _huge_png(), "photo_unreadable", "30000x30000"),
        ("bin-images/notes.txt", b"hello", "not_a_photo", ".jpg"),
        ("bin-images/.00090.jpg.part", b"half", "not_a_photo", "unfinished"),
        ("bin-images/00091.jpg", jpeg(1), "metadata_missing", "00091.json"),
        ("metadata/00090.json", b"{", "metadata_malformed", "bin record"),
        ("metadata/00090.json", b"[]", "metadata_malformed", "bin record"),
        ("metadata/00090.json", b'{"BIN_FCSKU_DATA": {}}', "metadata_malformed", "EXPECTED_QUANTITY"),
        ("metadata/00090.json", b'{"BIN_FCSKU_DATA": {}, "EXPECTED_QUANTITY": -1}', "metadata_malformed", "greater"),
        ("metadata/00090.json", b'{"BIN_FCSKU_DATA": {}, "EXPECTED_QUANTITY": "3"}', "metadata_malformed", "integer"),
        ("metadata/00090.json", b'{"BIN_FCSKU_DATA": {}, "EXPECTED_QUANTITY": 99999}', "metadata_malformed", "10000"),
        ("metadata/00090.json", b'{"BIN_FCSKU_DATA": 3, "EXPECTED_QUANTITY": 1}', "metadata_malformed", "DATA"),
    ],
)
def test_import_bad_file_is_listed_by_name_and_reason(
    tmp_path: Path, path: str, data: bytes, kind: str, words: str
) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("00001", 1)
    source.add("00090", 2)
    if path.endswith(".png"):
        source.write("bin-images/00090.jpg", jpeg(9))
        (source.folder / "bin-images" / "00090.jpg").unlink()
    source.write(path, data)
    done = _import(source.folder, tmp_path / "set")
    (entry,) = done.rejected
    assert entry.kind == kind
    assert words in entry.reason
    named = path if path.startswith("bin-images") else "bin-images/00090.jpg"
    assert entry.name == named
    lines = (tmp_path / "set" / REJECTED_NAME).read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [named]
    assert "00001" in done.dataset.ids.to_pylist()


def test_import_same_id_in_two_files_keeps_the_first_and_lists_the_other(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("00001", 1)
    source.write("bin-images/00001.png", jpeg(2))
    done = _import(source.folder, tmp_path / "set")
    assert _kinds(done) == {"bin-images/00001.png": "duplicate_id"}
    assert len(done.dataset) == 1


def test_import_one_number_in_two_spellings_keeps_both_bins_and_says_so(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("01044", 4, ["X"])
    source.add("1044", 2, ["X"])
    source.add("01045", 5, ["X"])
    done = _import(source.folder, tmp_path / "set")
    dataset = done.dataset
    assert dict(zip(dataset.ids.to_pylist(), dataset.counts.tolist(), strict=True)) == {
        "01044": 4,
        "1044": 2,
        "01045": 5,
    }
    (notice,) = (entry for entry in done.notices if entry.kind == "two_spellings")
    assert "01044" in notice.reason
    assert "1044" in notice.reason
    # Neighbours are neighbours in one spelling only.
    groups = dict(zip(dataset.ids.to_pylist(), dataset.groups.tolist(), strict=True))
    assert groups["01044"] == groups["01045"] != groups["1044"]


def test_import_remarks_on_orphan_records_sums_and_gaps(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("00001", 1)
    source.add("00005", 4)
    source.write("metadata/00009.json", json.dumps({"BIN_FCSKU_DATA": {}, "EXPECTED_QUANTITY": 1}))
    source.write("metadata/00005.json", '{"BIN_FCSKU_DATA": {"A": {"quantity": 3}}, "EXPECTED_QUANTITY": 4}')
    done = _import(source.folder, tmp_path / "set")
    found = {(entry.name, entry.kind) for entry in done.notices}
    assert found == {
        ("metadata/00009.json", "photo_missing"),
        ("bin-images/00005.jpg", "quantity_sum_differs"),
        ("count 2", "empty_class"),
        ("count 3", "empty_class"),
    }
    assert len((tmp_path / "set" / NOTICES_NAME).read_text().splitlines()) == 4


def test_import_squashed_and_native_photos_together_are_remarked(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("00001", 1, data=jpeg(1, width=224, height=224))
    source.add("00002", 1, data=jpeg(2, width=300, height=200))
    assert "mixed_sizes" in {entry.kind for entry in _import(source.folder, tmp_path / "set").notices}


def test_import_identical_files_share_a_group(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("00001", 1, ["A"], data=jpeg(1))
    source.add("00050", 2, ["B"], data=jpeg(1))
    source.add("00070", 2, ["C"])
    assert _import(source.folder, tmp_path / "set").dataset.groups.tolist() == [0, 0, 2]


def test_import_nothing_usable_fails_naming_reasons(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.write("bin-images/00001.jpg", b"text")
    with pytest.raises(InputError, match=r"no usable photo.*00001"):
        _import(source.folder, tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())


def test_import_onto_a_dataset_is_refused_without_overwrite(tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "source", bins=3)
    _import(source.folder, tmp_path / "set")
    with pytest.raises(InputError, match="holds a dataset already"):
        _import(source.folder, tmp_path / "set")


def test_import_interrupted_leaves_the_old_dataset(tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "source", bins=3)
    before = _import(source.folder, tmp_path / "set").dataset.digest
    source.add("00900", 1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt(done, total)

    with pytest.raises(KeyboardInterrupt):
        import_listing(
            list_abid(source.folder), tmp_path / "set", ImportOptions(overwrite=True, workers=1, on_progress=interrupt)
        )
    assert Dataset.open(tmp_path / "set").digest == before


def test_import_from_standard_input_without_main_guard_works(tmp_path: Path, repository: Path) -> None:
    source = pairs_source(tmp_path / "source", bins=70)
    code = (
        "from pathlib import Path\nfrom train.data.importing import import_abid\n"
        f"print(len(import_abid(Path({str(source.folder)!r}), Path({str(tmp_path / 'set')!r}), workers=2).dataset))\n"
    )
    done = subprocess.run([sys.executable, "-"], input=code, cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "140"


def test_import_folders_labels_by_folder_and_lists_the_rest(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, files in {
        "1": ["a.jpg", "b.jpg", "both.jpg"],
        "2": ["c.jpg", "both.jpg", "two.jpg", "two.png"],
        "3": [],
        "x": ["d.jpg"],
    }.items():
        (source / name).mkdir(parents=True)
        for index, file in enumerate(files):
            (source / name / file).write_bytes(jpeg(hash((name, index)) & 0xFFFF))
    (source / "20000").mkdir()
    (source / "20000" / "e.jpg").write_bytes(jpeg(77))
    (source / "readme.md").write_text("x")
    done = import_listing(list_folders(source), tmp_path / "set", ImportOptions(workers=1))
    assert dict(zip(done.dataset.ids.to_pylist(), done.dataset.counts.tolist(), strict=True)) == {
        "a": 1,
        "b": 1,
        "c": 2,
        "1-both": 1,
        "2-both": 2,
    }
    assert _kinds(done) == {
        "2/two.jpg": "duplicate_id",
        "2/two.png": "duplicate_id",
        "x/d.jpg": "count_out_of_range",
        "20000/e.jpg": "count_out_of_range",
        "readme.md": "not_in_a_class",
    }
    assert [(entry.name, entry.kind) for entry in done.notices] == [
        ("3/", "empty_class"),
        ("count folders", "numbered_per_folder"),
    ]


def test_import_folders_numbered_anew_in_each_takes_every_photo(tmp_path: Path) -> None:
    for count in range(3):
        (tmp_path / "source" / str(count)).mkdir(parents=True)
        for number in range(4 + count):
            (tmp_path / "source" / str(count) / f"{number:05d}.jpg").write_bytes(jpeg(100 * count + number))
    done = import_listing(list_folders(tmp_path / "source"), tmp_path / "set", ImportOptions(workers=1))
    assert done.rejected == ()
    labels = dict(zip(done.dataset.ids.to_pylist(), done.dataset.counts.tolist(), strict=True))
    # 00005 lies in the folder of count 2 alone.
    expected = {f"{count}-{number:05d}": count for count in range(3) for number in range(min(4 + count, 5))}
    assert labels == expected | {"00005": 2}


def test_import_same_file_with_two_counts_is_remarked(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("00001", 1, ["A"], data=jpeg(1))
    source.add("00002", 2, ["B"], data=jpeg(1))
    source.add("00003", 2, ["B"], data=jpeg(3))
    (entry,) = (entry for entry in _import(source.folder, tmp_path / "set").notices if entry.kind == "two_labels")
    assert entry.name == "bin-images/00001.jpg"
    assert "bin-images/00002.jpg" in entry.reason


def test_import_csv_takes_columns_and_lists_bad_lines(tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(jpeg(index))
    rows: list[dict[str, object]] = [
        {"path": "0.jpg", "id": "007", "count": 1, "asins": "A B", "group": "g1"},
        {"path": "1.jpg", "id": "7", "count": 2, "asins": "", "group": "g1"},
        {"path": "2.jpg", "id": "8", "count": -2, "asins": "A", "group": ""},
        {"path": "2.jpg", "id": "9", "count": "two", "asins": "A", "group": ""},
        {"path": "3.jpg", "id": "007", "count": 3, "asins": "A", "group": ""},
        {"path": "", "id": "10", "count": 3, "asins": "A", "group": ""},
        {"path": "../up.jpg", "id": "11", "count": 3, "asins": "A", "group": ""},
        {"path": "absent.jpg", "id": "12", "count": 3, "asins": "A", "group": ""},
    ]
    listing = list_csv(write_csv(tmp_path / "photos.csv", rows))
    done = import_listing(listing, tmp_path / "set", ImportOptions(workers=1))
    assert done.dataset.ids.to_pylist() == ["007", "7"]
    assert done.dataset.asins.to_pylist() == [["A", "B"], []]
    assert done.dataset.groups.tolist() == [0, 0]
    assert _kinds(done) == {
        "photos.csv line 4": "count_out_of_range",
        "photos.csv line 5": "count_out_of_range",
        "photos.csv line 6": "duplicate_id",
        "photos.csv line 7": "path_missing",
        "photos.csv line 8": "path_outside",
        "absent.jpg": "photo_unreadable",
    }


def test_import_csv_without_ids_takes_file_names(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "cam.1.jpg").write_bytes(jpeg(1))
    listing = list_csv(write_csv(tmp_path / "photos.csv", [{"path": "deep/cam.1.jpg", "count": 1}]))
    done = import_listing(listing, tmp_path / "set", ImportOptions(workers=1))
    assert done.dataset.ids.to_pylist() == ["cam.1"]
    assert done.dataset.asins.to_pylist() == [None]


@pytest.mark.parametrize(
    ("content", "words"), [(b"a,b\n1,2\n", "lacks the column count and path"), (b"\xff\xfe\x00", "UTF-8"), (b"", "CSV")]
)
def test_import_csv_that_is_none_fails_clearly(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "photos.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        list_csv(path)


def test_import_without_opening_photos_leaves_measures_unknown(tmp_path: Path) -> None:
    listing = list_csv(write_csv(tmp_path / "photos.csv", [{"path": "gone.jpg", "count": 2}]))
    done = import_listing(listing, tmp_path / "set", ImportOptions(open_photos=False))
    assert done.dataset.widths.tolist() == [0]
    assert done.dataset.hashes.to_pylist() == [""]


def test_detect_layout_recognises_all_three_and_refuses_others(tmp_path: Path) -> None:
    pairs_source(tmp_path / "abid", bins=1)
    (tmp_path / "folders" / "0").mkdir(parents=True)
    (tmp_path / "photos.csv").write_text("path,count\n")
    found = [detect_layout(tmp_path / name) for name in ("abid", "folders", "photos.csv")]
    assert found == ["abid", "folders", "csv"]
    with pytest.raises(InputError, match="no layout"):
        detect_layout(tmp_path / "nothing")


@pytest.mark.parametrize("missing", ["bin-images", "metadata"])
def test_list_abid_without_its_folders_names_the_missing_one(tmp_path: Path, missing: str) -> None:
    source = AbidSource(tmp_path / "source")
    (source.folder / missing).rmdir()
    with pytest.raises(InputError, match=missing):
        list_abid(source.folder)
