"""Which seeds belong to whom, so that what is shown was never trained on.

A dataset of seed S renders its pictures from S * 10^9 on; a tour of seed S does so above 2^62. Dataset seeds end below
10^9, so the two ranges cannot meet.
"""

from __future__ import annotations

PICTURES_PER_SEED = 1_000_000_000
MAX_SEED = 1_000_000_000 - 1
_TOURS = 1 << 62


def dataset_seed(seed: int, index: int) -> int:
    """Give the seed that one picture of a dataset is rendered from.

    Args:
        seed: The dataset's, 0 to `MAX_SEED`.
        index: The picture's place, from 0.

    Returns:
        What to pass to `render_bin`.
    """
    return seed * PICTURES_PER_SEED + index


def tour_seed(seed: int, index: int) -> int:
    """Give the seed that one picture of a tour is rendered from; no dataset has it.

    Args:
        seed: The tour's, 0 to `MAX_SEED`.
        index: The picture's place, from 0.

    Returns:
        What to pass to `render_bin`.
    """
    return _TOURS + seed * PICTURES_PER_SEED + index
