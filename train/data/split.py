"""Assigning photos to train, val and test: grouped (the default), random, official, k-fold.

Grouped means: a group (photos of the same bin, see `train.data.grouping`) is never torn apart. Random and official
exist because every published number used one of them; they leak, and are written only on request.

Dealing is deterministic by seed, and stratified: groups of equal composition (say, one photo with 2 items and one with
3) are shuffled and dealt out by the wanted shares; what does not divide evenly goes, group by group, to the split that
lacks these classes most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bundle.errors import ConfigError, InputError
from train.data.audit import neighbours_of, unguarded_neighbours

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from train.data.manifest import Dataset

DEFAULT_SHARES: dict[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
DEFAULT_SEED = 7
TOP_CLASS = 6
"""Counts from here on are one class when classes are balanced between splits: above, photos are rare."""
Method = Literal["grouped", "random", "kfold"]
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How to split.

    Attributes:
        method: `grouped` keeps groups together, `random` does not, `kfold` is grouped into equal folds.
        shares: Share of each split; they add up to 1.
        seed: Decides the shuffling.
    """

    method: Method
    shares: Mapping[str, float]
    seed: int


def plan(
    method: Method = "grouped",
    *,
    shares: Mapping[str, float] | None = None,
    folds: int = 5,
    seed: int = DEFAULT_SEED,
) -> SplitPlan:
    """Check and complete the options of a split.

    Args:
        method: See `SplitPlan`.
        shares: Share of each split, for `grouped` and `random`; default 80/10/10.
        folds: Number of folds, for `kfold`; they are named fold0, fold1 ...
        seed: Decides the shuffling.

    Returns:
        The plan.

    Raises:
        ConfigError: The shares do not add up to 1, or there are fewer than two folds.
    """
    if method == "kfold":
        if folds < 2:  # noqa: PLR2004 - one fold is no split
            raise ConfigError("a k-fold split needs folds", got=folds, expected="2 or more")
        return SplitPlan(method, {f"fold{index}": 1.0 / folds for index in range(folds)}, seed)
    wanted = dict(DEFAULT_SHARES if shares is None else shares)
    if not wanted or min(wanted.values()) <= 0 or abs(sum(wanted.values()) - 1.0) > _TOLERANCE:
        raise ConfigError("the shares of a split must be positive and add up to 1", got=wanted, expected=DEFAULT_SHARES)
    return SplitPlan(method, wanted, seed)


def assign(dataset: Dataset, how: SplitPlan) -> NDArray[np.int64]:
    """Decide the split of every photo, without writing anything.

    Args:
        dataset: The dataset.
        how: The plan.

    Returns:
        int64, (rows,): position in `how.shares`; -1 for a guard photo (see `split`).

    Raises:
        InputError: There are fewer groups than splits.
    """
    groups = np.arange(len(dataset)) if how.method == "random" else dataset.groups
    codes = deal(groups, dataset.counts, np.array(list(how.shares.values())), how.seed)
    if how.method != "random":
        codes[_guards(dataset, codes)] = -1
    empty = [name for code, name in enumerate(how.shares) if not (codes == code).any()]
    if empty:
        raise InputError(
            f"dataset {dataset.folder} is too small to split: nothing is left for {', '.join(empty)}",
            got=f"{len(dataset)} photos in {dataset.group_count()} groups",
            fix="Import more photos, or ask for fewer splits.",
        )
    return codes


def _guards(dataset: Dataset, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows to leave out because they may show the bin of a photo in another split, and no record can tell."""
    pairs = unguarded_neighbours(dataset, neighbours_of(dataset))
    guards: NDArray[np.int64] = pairs[codes[pairs[:, 0]] != codes[pairs[:, 1]]][:, 0]
    return guards


def split(dataset: Dataset, how: SplitPlan | None = None) -> Dataset:
    """Split a dataset and write its manifest.

    Where nobody recorded what lay in the bins, groups are blocks of neighbouring numbers; the last photo of a block
    stays unassigned when its successor falls into another split, because the two may show the same bin.

    Args:
        dataset: The dataset; a split that it has is replaced.
        how: The plan; default grouped 80/10/10.

    Returns:
        The dataset with its split.

    Raises:
        InputError: There are fewer groups than splits.
        OSError: The disk refused.
    """
    planned = preview(dataset, how or plan())
    return planned.save(planned.table, planned.note)


def preview(dataset: Dataset, how: SplitPlan) -> Dataset:
    """Return a dataset as `split` would leave it, without writing: to be audited first.

    Args:
        dataset: The dataset; a split that it has is replaced.
        how: The plan.

    Returns:
        The dataset with its split, only in memory.

    Raises:
        InputError: There are fewer groups than splits.
    """
    note = {"method": how.method, "shares": dict(how.shares), "seed": how.seed}
    table = dataset.with_splits(assign(dataset, how), list(how.shares))
    return dataset.preview(table, {**dataset.note, "split": note})


def deal(
    groups: NDArray[np.int64] | NDArray[np.int32], counts: NDArray[np.int32], shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    """Deal groups of photos out to splits by share, evenly over the classes.

    Args:
        groups: int, (rows,): group of each photo.
        counts: int32, (rows,): items in each bin.
        shares: float64, (splits,): wanted shares.
        seed: Decides the shuffling.

    Returns:
        int64, (rows,): split of each photo; photos of one group get the same.
    """
    _, member = np.unique(groups, return_inverse=True)
    member = member.reshape(-1)
    histogram = np.zeros((int(member.max()) + 1, TOP_CLASS + 1), dtype=np.int64)
    np.add.at(histogram, (member, np.minimum(counts, TOP_CLASS)), 1)
    compositions, stratum = np.unique(histogram, axis=0, return_inverse=True)
    stratum = stratum.reshape(-1)
    # Shuffled, then sorted by stratum: random within each stratum.
    order = np.random.default_rng(seed).permutation(len(histogram))
    order = order[np.argsort(stratum[order], kind="stable")]
    sizes = np.bincount(stratum)
    dealt = np.concatenate(list(_shares_of_strata(compositions, sizes, shares)))
    split_of_group = np.empty(len(histogram), dtype=np.int64)
    split_of_group[order] = dealt
    return split_of_group[member]


def _shares_of_strata(
    compositions: NDArray[np.int64], sizes: NDArray[np.int64], shares: NDArray[np.float64]
) -> Iterator[NDArray[np.int64]]:
    """Yield for each stratum the splits that its groups go to."""
    # One more column, a group's photos in all: else every stratum would round the same way, and shares would drift.
    weights = np.concatenate([compositions, compositions.sum(axis=1, keepdims=True)], axis=1)
    has = np.zeros((len(shares), weights.shape[1]))
    seen = np.zeros(weights.shape[1])
    for composition, size in zip(weights, sizes, strict=True):
        whole = np.floor(size * shares).astype(np.int64)
        has += whole[:, None] * composition
        seen += composition * size
        rest = np.empty(int(size - whole.sum()), dtype=np.int64)
        for index in range(len(rest)):
            lack = ((np.outer(shares, seen) - has) * composition).sum(axis=1)
            rest[index] = int(np.argmax(lack))
            has[rest[index]] += composition
        yield np.concatenate([np.repeat(np.arange(len(shares)), whole), rest])
