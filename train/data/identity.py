"""From the manifest's text columns to numbers that vector code can work with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from train.data.grouping import Contents

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PADDED_DIGITS = 5
_LONGEST_NUMBER = 15
_SERIES_PADDED = 0
_SERIES_BARE = 1
_SERIES_OTHER = 2


def number_series(ids: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the number in each id, and the spelling it has.

    The public bucket numbers its photos twice: padded (`00001` to `535234`) and bare (`1` to `1200`), and `1044` is not
    the bin of `01044`. Numbers are neighbours only within one spelling.

    Args:
        ids: Arrow strings.

    Returns:
        int64, (rows,): the number, -1 where the id is not a number; and int64, (rows,): the spelling.
    """
    lengths = pc.utf8_length(ids).to_numpy(zero_copy_only=False).astype(np.int64)
    is_number = pc.utf8_is_digit(ids).to_numpy(zero_copy_only=False) & (lengths <= _LONGEST_NUMBER)
    is_number &= pc.string_is_ascii(ids).to_numpy(zero_copy_only=False)
    digits = pc.if_else(pa.array(is_number), ids, pa.scalar("-1"))
    numbers = pc.cast(digits, pa.int64()).to_numpy(zero_copy_only=False)
    leading_zero = pc.starts_with(ids, "0").to_numpy(zero_copy_only=False) & (lengths > 1)
    series = np.full(len(ids), _SERIES_PADDED, dtype=np.int64)
    series[~leading_zero & (lengths < _PADDED_DIGITS)] = _SERIES_BARE
    odd = leading_zero & (lengths != _PADDED_DIGITS)
    series[odd] = _SERIES_OTHER + lengths[odd]
    return numbers, series


def contents_of(asins: pa.Array) -> Contents:
    """Number the articles of every bin.

    Args:
        asins: Arrow list<string>, null where unknown.

    Returns:
        The same as flat columns.
    """
    lengths = pc.fill_null(pc.list_value_length(asins), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    codes = asins.flatten().dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Contents(offsets, codes, asins.is_valid().to_numpy(zero_copy_only=False))


def equal_texts(texts: pa.Array) -> NDArray[np.int64]:
    """Find rows with the same text: files with the same hash, photos of the same declared group.

    Args:
        texts: Arrow strings, "" where unknown; unknowns are not equal to each other.

    Returns:
        int64, (pairs, 2): each further row with the one before it that has the same text.
    """
    codes = texts.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    known = np.flatnonzero(pc.not_equal(texts, "").to_numpy(zero_copy_only=False))
    order = known[np.argsort(codes[known], kind="stable")]
    left, right = order[:-1], order[1:]
    same = codes[left] == codes[right]
    return np.stack([left[same], right[same]], axis=1)
