from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bundle.errors import ConfigError, InputError
from train.data.selection import Picker, Selection, parse_counts, read_file_list, read_ids

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("text", "first", "last"), [("3", 3, 3), ("1-5", 1, 5), (" 0-0 ", 0, 0), ("6+", 6, 10_000)])
def test_parse_counts(text: str, first: int, last: int) -> None:
    found = parse_counts(text)
    assert (found[0], found[-1]) == (first, last)


@pytest.mark.parametrize("text", ["", "a", "5-1", "-1", "1-", "1,2", "1-5+"])
def test_parse_counts_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="range of counts"):
        parse_counts(text)


def test_read_ids_keeps_spelling_and_order(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("# mine\n1044\n01044\n\nbin-images/00002.jpg\nmetadata/00003.json\n1044\n")
    assert read_ids(path) == ("1044", "01044", "00002", "00003")


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "lists no ids"), ("../../etc/passwd x\n", "no id"), ("..\n", "no id"), ("a b\n", "no id")],
)
def test_read_ids_bad_content_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_ids(path)


def test_read_file_list_reads_the_courses_form(tmp_path: Path) -> None:
    path = tmp_path / "file_list.json"
    path.write_text(json.dumps({"2": ["data/metadata/00009.json", "data/metadata/1044.json"], "1": ["x/00003.json"]}))
    assert read_file_list(path) == {"00009": 2, "1044": 2, "00003": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"1": ["00001.json"], "2": ["00001.json"]}', "under two counts"),
        ('{"one": ["00001.json"]}', "no count"),
        ('["00001.json"]', "not a file list"),
        ("{", "not a file list"),
        ("{}", "lists no ids"),
    ],
)
def test_read_file_list_bad_content_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "file_list.json"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_file_list(path)


def test_picker_stops_at_the_limit() -> None:
    picker = Picker(Selection(counts=range(1, 3), limit=2))
    assert [picker.take(count) for count in (0, 1, 3, 2, 1)] == [False, True, False, True, False]
    assert picker.full


def test_picker_fills_each_class_up_to_its_quota() -> None:
    picker = Picker(Selection(quota={1: 1, 5: 2}))
    assert [picker.take(count) for count in (1, 1, 2, 5, 5)] == [True, False, False, True, True]
    assert picker.full
    assert picker.remaining == 0


def test_selection_order_is_shuffled_by_seed_and_leaves_out() -> None:
    names = [f"{number:05d}" for number in range(50)]
    chosen = Selection(exclude=frozenset({"00007"}), shuffle=3).order(names)
    assert sorted(chosen) == [name for name in names if name != "00007"]
    assert chosen == Selection(exclude=frozenset({"00007"}), shuffle=3).order(names) != sorted(chosen)
