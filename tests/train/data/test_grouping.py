from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data import grouping
from train.data.identity import contents_of, equal_texts, number_series

if TYPE_CHECKING:
    from collections.abc import Sequence


def _photos(rows: Sequence[tuple[str, Sequence[str] | None, int]]) -> grouping.Neighbours:
    numbers, series = number_series(pa.array([row[0] for row in rows], pa.string()))
    asins = pa.array([None if row[1] is None else list(row[1]) for row in rows], pa.list_(pa.string()))
    return grouping.Neighbours(numbers, series, contents_of(asins), np.array([row[2] for row in rows], np.int32))


def _groups(rows: Sequence[tuple[str, Sequence[str] | None, int]]) -> list[int]:
    return [int(group) for group in grouping.groups_of(_photos(rows), np.empty((0, 2), np.int64))]


@pytest.mark.parametrize(
    ("rows", "groups"),
    [
        # neighbours with a shared article
        ([("00001", "AB", 2), ("00002", "BC", 3)], [0, 0]),
        # neighbours without one
        ([("00001", "AB", 2), ("00002", "CD", 3)], [0, 1]),
        # a shared article, but a number between them is missing
        ([("00001", "A", 2), ("00003", "A", 3)], [0, 1]),
        # a chain
        ([("00001", "A", 1), ("00002", "AB", 2), ("00003", "B", 1), ("00004", "C", 1)], [0, 0, 0, 3]),
        # one number in two spellings: neighbours only within a spelling
        ([("1", "A", 1), ("00001", "A", 2), ("00002", "A", 3), ("2", "B", 1)], [0, 1, 1, 3]),
        # 99999 and 100000 are neighbours though their lengths differ
        ([("99999", "A", 1), ("100000", "A", 2)], [0, 0]),
        # an empty bin shares nothing and is tied to both neighbours
        ([("00001", "A", 1), ("00002", "", 0), ("00003", "B", 2), ("00004", "C", 2)], [0, 0, 0, 3]),
        # names without numbers have no neighbours
        ([("left", "A", 1), ("right", "A", 2)], [0, 1]),
        # rows in any order
        ([("00009", "A", 1), ("00002", "B", 2), ("00008", "A", 2)], [0, 1, 0]),
        # nobody recorded the contents: blocks of 200 numbers
        ([("00198", None, 1), ("00199", None, 1), ("00200", None, 1), ("00201", None, 1)], [0, 0, 2, 2]),
        # numbers too long to be one
        ([("9" * 16, "A", 1), ("1" + "0" * 16, "A", 1)], [0, 1]),
        # other digits than ASCII ones are no numbers
        ([("\u0661", "A", 1), ("\u0662", "A", 1)], [0, 1]),
    ],
)
def test_groups_of(rows: Sequence[tuple[str, Sequence[str] | None, int]], groups: list[int]) -> None:
    assert _groups(rows) == groups


def test_groups_of_nothing_is_nothing() -> None:
    assert _groups([]) == []


_ROWS = st.lists(
    st.tuples(
        st.integers(0, 12).map(lambda number: f"{number:05d}"),
        st.one_of(st.none(), st.sets(st.sampled_from("ABCD"))),
        st.integers(0, 3),
    ),
    max_size=12,
    unique_by=lambda row: row[0],
)


@settings(deadline=None)
@given(_ROWS)
def test_groups_of_agrees_with_the_definition_spelled_out(
    rows: list[tuple[str, set[str] | None, int]],
) -> None:
    members = [{index} for index in range(len(rows))]

    def tie(left: int, right: int) -> None:
        together = members[left] | members[right]
        for index in together:
            members[index] = together

    for left, (left_id, left_asins, left_count) in enumerate(rows):
        for right, (right_id, right_asins, right_count) in enumerate(rows):
            if int(right_id) - int(left_id) != 1:
                continue
            if left_asins is None or right_asins is None:
                tie(left, right)  # all numbers here lie in one block
            elif left_asins & right_asins or not left_count or not right_count:
                tie(left, right)
    expected = [min(group) for group in members]
    assert _groups([(name, None if asins is None else sorted(asins), count) for name, asins, count in rows]) == expected


@settings(deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60))
def test_components_agree_with_flooding(count: int, links: list[tuple[int, int]]) -> None:
    links = [(left % count, right % count) for left, right in links]
    label = list(range(count))
    changed = True
    while changed:
        changed = False
        for left, right in links:
            low = min(label[left], label[right])
            changed |= label[left] != low or label[right] != low
            label[left] = label[right] = low
    found = grouping.components(count, np.array(links, dtype=np.int64).reshape(-1, 2))
    assert found.tolist() == label


def test_components_of_one_long_chain_take_few_rounds() -> None:
    count = 200_000
    links = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    shuffled = np.random.default_rng(1).permutation(links)
    assert not grouping.components(count, shuffled).any()


def test_equal_texts_pairs_copies_and_never_unknowns() -> None:
    assert equal_texts(pa.array(["a", "", "b", "a", "", "a"])).tolist() == [[0, 3], [3, 5]]
