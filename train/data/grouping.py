"""Which photos show the same bin: the groups that a split must not tear apart.

The robot photographs a bin before and after one pick, and the two photos carry neighbouring numbers. Measured on 8,572
photos of the public dataset: 39 % of neighbouring numbers share an ASIN, their counts never agree, and their 32x32
thumbnails correlate at 0.68 (median) against 0.29 for neighbours that share none.

An empty bin shares an ASIN with nobody, yet thumbnails of neighbours of which one is empty correlate at 0.42, and at
0.63 where the other holds one item: those are pairs as well. So an empty bin is tied to both of its neighbours. That
costs nothing (2 % of the photos are empty) and leaves no pair undetected.

Photos without any record of ASINs cannot be paired; their numbers are cut into blocks instead. Files with the same
bytes belong together whatever their names are.

Everything here works on columns: one sort and a few vector operations for any number of photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_IDS = 200
"""Neighbouring numbers that form one group where no ASIN is known."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The ASINs of every photo as one flat column.

    Attributes:
        offsets: int64, (rows + 1,): the ASINs of row r are `codes[offsets[r] : offsets[r + 1]]`.
        codes: int64, (n,): one number per distinct ASIN.
        known: bool, (rows,): False where nobody recorded what lay in the bin.
    """

    offsets: NDArray[np.int64]
    codes: NDArray[np.int64]
    known: NDArray[np.bool_]

    def rows(self) -> NDArray[np.int64]:
        """Return the row that each entry of `codes` belongs to.

        Returns:
            int64, (n,).
        """
        rows: NDArray[np.int64] = np.repeat(np.arange(len(self.known)), np.diff(self.offsets))
        return rows


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What decides which photos show the same bin.

    Attributes:
        numbers: int64, (rows,): number in the id, -1 where it has none.
        series: int64, (rows,): which spelling the id has; `1044` and `01044` are of different series.
        contents: ASINs of every photo.
        counts: int32, (rows,): items in each bin.
    """

    numbers: NDArray[np.int64]
    series: NDArray[np.int64]
    contents: Contents
    counts: NDArray[np.int32]

    def adjacent(self) -> NDArray[np.int64]:
        """Find photos whose numbers follow each other in one spelling.

        Returns:
            int64, (pairs, 2): rows, ordered by series and number.
        """
        order = np.lexsort((self.numbers, self.series))
        left, right = order[:-1], order[1:]
        follows = (self.numbers[right] - self.numbers[left] == 1) & (self.series[left] == self.series[right])
        follows &= self.numbers[left] >= 0
        return np.stack([left[follows], right[follows]], axis=1)


def sibling_links(photos: Neighbours) -> NDArray[np.int64]:
    """Find neighbouring photos of the same bin.

    Args:
        photos: Numbers and contents of all photos.

    Returns:
        int64, (links, 2): pairs of rows, ordered by series and number.
    """
    pairs = photos.adjacent()
    left, right = pairs[:, 0], pairs[:, 1]
    empty = (photos.counts[left] == 0) | (photos.counts[right] == 0)
    known = photos.contents.known[left] & photos.contents.known[right]
    links: NDArray[np.int64] = pairs[known & (empty | share_articles(pairs, photos.contents))]
    return links


def share_articles(pairs: NDArray[np.int64], contents: Contents) -> NDArray[np.bool_]:
    """Say for each pair of photos whether they share an ASIN.

    Args:
        pairs: int64, (pairs, 2): rows; a row stands at most once on the left, and at most once on the right.
        contents: ASINs of every photo.

    Returns:
        bool, (pairs,).
    """
    rows = len(contents.known)
    if len(pairs) == 0 or len(contents.codes) == 0:
        return np.zeros(len(pairs), dtype=np.bool_)
    # (ASIN, pair) as one integer, for the left photos and for the right ones: a pair shares what both sides hold.
    at = contents.rows()
    keys = []
    for side in (0, 1):
        pair_of_row = np.full(rows, -1, dtype=np.int64)
        pair_of_row[pairs[:, side]] = np.arange(len(pairs))
        pair = pair_of_row[at]
        keys.append(contents.codes[pair >= 0] * len(pairs) + pair[pair >= 0])
        keys[side].sort()
    shares = np.zeros(len(pairs), dtype=np.bool_)
    if len(keys[0]):
        # Not np.intersect1d: the hashing inside of it (numpy 2.3 on) takes quadratic time on keys as regular as these.
        place = np.minimum(np.searchsorted(keys[0], keys[1]), len(keys[0]) - 1)
        shares[keys[1][keys[0][place] == keys[1]] % len(pairs)] = True
    return shares


def unrecorded_neighbours(photos: Neighbours) -> NDArray[np.int64]:
    """Find neighbouring photos of which nobody can say whether they show the same bin.

    Args:
        photos: Numbers and contents of all photos.

    Returns:
        int64, (pairs, 2): pairs of rows, at least one of each without a record of its contents.
    """
    pairs = photos.adjacent()
    known = photos.contents.known[pairs[:, 0]] & photos.contents.known[pairs[:, 1]]
    unknown: NDArray[np.int64] = pairs[~known]
    return unknown


def groups_of(photos: Neighbours, links: NDArray[np.int64], *, blocks: bool = True) -> NDArray[np.int32]:
    """Number the groups of photos that belong together.

    Args:
        photos: Numbers and contents of all photos.
        links: int64, (pairs, 2): rows that belong together for other reasons (identical files, declared groups).
        blocks: Cut photos without a record of their contents into blocks of `BLOCK_IDS` numbers.

    Returns:
        int32, (rows,): the first row of the group that each row belongs to.
    """
    found = [sibling_links(photos), links]
    if blocks:
        pairs = unrecorded_neighbours(photos)
        block = photos.numbers // BLOCK_IDS
        found.append(pairs[block[pairs[:, 0]] == block[pairs[:, 1]]])
    return components(len(photos.numbers), np.concatenate(found)).astype(np.int32)


def components(count: int, links: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find connected components by letting the smallest row spread.

    Args:
        count: Number of rows.
        links: int64, (n, 2): pairs of rows that belong together.

    Returns:
        int64, (count,): the smallest row of each row's component.
    """
    label = np.arange(count)
    if len(links) == 0:
        return label
    left, right = links[:, 0], links[:, 1]
    while True:
        smallest = np.minimum(label[left], label[right])
        spread = label.copy()
        # Hook the roots of both ends to the smaller one, then jump pointers: a chain of n links takes log n rounds.
        np.minimum.at(spread, label[left], smallest)
        np.minimum.at(spread, label[right], smallest)
        while not np.array_equal(jumped := spread[spread], spread):
            spread = jumped
        if np.array_equal(spread, label):
            return label
        label = spread
