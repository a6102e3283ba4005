"""Does a split leak? Looked up in the photos' ids, contents and hashes again, not in the group column that made it.

A leak is a photo whose twin lies in another split: the same bin before and after one pick, or the same file. Photos
that merely hold the same article somewhere else in the warehouse are counted and are no leak: the robot will meet known
articles as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.errors import InputError
from train.data import grouping
from train.data.identity import contents_of, equal_texts, number_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from train.data.manifest import Dataset

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Audit:
    """What the audit of a split found. Every number counts pairs of photos in different splits.

    Attributes:
        splits: Photos in each split.
        unassigned: Photos in no split.
        pairs: Pairs of photos of the same bin, in all.
        torn_siblings: Of them, those in different splits.
        torn_groups: Groups with photos in different splits.
        same_file: Identical files in different splits.
        possible_siblings: Neighbours without a record of their contents in different splits.
        leaking_share: For each split, the share of its photos that have a twin in another split.
        shared_article_share: For each split, the share of its photos with an article of another split. No leak.
        examples: A few torn pairs, as ids.
    """

    splits: dict[str, int]
    unassigned: int
    pairs: int
    torn_siblings: int
    torn_groups: int
    same_file: int
    possible_siblings: int
    leaking_share: dict[str, float]
    shared_article_share: dict[str, float]
    examples: tuple[tuple[str, str], ...]

    @property
    def leaks(self) -> int:
        """Everything that lets a split see photos of another."""
        return self.torn_siblings + self.torn_groups + self.same_file + self.possible_siblings

    def as_json(self) -> dict[str, Any]:
        """Return the audit for programs.

        Returns:
            All attributes, and `leaks`.
        """
        return {"leaks": self.leaks, **asdict(self)}


def neighbours_of(dataset: Dataset) -> grouping.Neighbours:
    """Read from a dataset what decides which photos show the same bin.

    Args:
        dataset: The dataset.

    Returns:
        Numbers, spellings, contents and counts of all photos.
    """
    numbers, series = number_series(dataset.ids)
    return grouping.Neighbours(numbers, series, contents_of(dataset.asins), dataset.counts)


def unguarded_neighbours(dataset: Dataset, photos: grouping.Neighbours) -> NDArray[np.int64]:
    """Find neighbours that may be siblings and are in no common group, for want of a record.

    Args:
        dataset: The dataset. Where its source declared the groups itself, the source is believed.
        photos: Its numbers and contents.

    Returns:
        int64, (pairs, 2): rows.
    """
    pairs = grouping.unrecorded_neighbours(photos)
    if dataset.note.get("import", {}).get("groups") == "declared":
        return pairs[:0]
    apart: NDArray[np.int64] = pairs[dataset.groups[pairs[:, 0]] != dataset.groups[pairs[:, 1]]]
    return apart


def audit(dataset: Dataset) -> Audit:
    """Look for photos whose twin lies in another split.

    Args:
        dataset: A dataset with a split.

    Returns:
        What was found; see `require_clean` for the loud form.

    Raises:
        InputError: The dataset has no split.
    """
    names = dataset.split_names()
    if not names:
        raise InputError(f"dataset {dataset.folder} has no split", fix="Split it with `bintally data split`.")
    codes = dataset.split_codes()
    photos = neighbours_of(dataset)
    siblings = grouping.sibling_links(photos)
    torn = _torn(siblings, codes)
    same_file = _torn(equal_texts(dataset.hashes), codes)
    possible = _torn(unguarded_neighbours(dataset, photos), codes)
    in_leak = np.zeros(len(dataset), dtype=np.bool_)
    for pairs in (torn, same_file, possible):
        in_leak[pairs.reshape(-1)] = True
    everything = np.concatenate([torn, same_file, possible])
    return Audit(
        splits={name: int((codes == code).sum()) for code, name in enumerate(names)},
        unassigned=int((codes < 0).sum()),
        pairs=len(siblings),
        torn_siblings=len(torn),
        torn_groups=_torn_groups(dataset.groups, codes),
        same_file=len(same_file),
        possible_siblings=len(possible),
        leaking_share={name: _share(in_leak[codes == code]) for code, name in enumerate(names)},
        shared_article_share=_shared_articles(photos.contents, codes, names),
        examples=tuple((dataset.id_of(left), dataset.id_of(right)) for left, right in everything[:_SHOWN]),
    )


def require_clean(dataset: Dataset) -> Audit:
    """Audit a split and refuse one that leaks.

    Args:
        dataset: A dataset with a split.

    Returns:
        The audit, without leaks.

    Raises:
        InputError: The split leaks.
    """
    found = audit(dataset)
    if found.leaks:
        raise InputError(f"the split of {dataset.folder} leaks", got=describe(found), expected="0", fix=_FIX)
    return found


_FIX = "Split it grouped (`bintally data split FOLDER`), or say --allow-leak if a leaking split is what you want."


def describe(found: Audit) -> str:
    """Put leaks into words.

    Args:
        found: An audit.

    Returns:
        One line.
    """
    kinds = {
        "pairs of the same bin torn apart": found.torn_siblings,
        "groups torn apart": found.torn_groups,
        "identical files in two splits": found.same_file,
        "neighbours without a record in two splits": found.possible_siblings,
    }
    words = [f"{number} {kind}" for kind, number in kinds.items() if number]
    shares = [f"{share:.0%} of {name}" for name, share in found.leaking_share.items() if share]
    examples = ", ".join(f"{left} and {right}" for left, right in found.examples[:2])
    parts = [", ".join(words) or "no leak"]
    if shares:
        parts.append("photos with a twin elsewhere: " + ", ".join(shares))
    if examples:
        parts.append(f"such as {examples}")
    return "; ".join(parts)


def _torn(pairs: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    left, right = codes[pairs[:, 0]], codes[pairs[:, 1]]
    torn: NDArray[np.int64] = pairs[(left >= 0) & (right >= 0) & (left != right)]
    return torn


def _torn_groups(groups: NDArray[np.int32], codes: NDArray[np.int64]) -> int:
    """Count groups with photos in more than one split."""
    assigned = codes >= 0
    group, split = groups[assigned], codes[assigned]
    lowest = np.full(len(codes), len(codes), dtype=np.int64)
    highest = np.full(len(codes), -1, dtype=np.int64)
    np.minimum.at(lowest, group, split)
    np.maximum.at(highest, group, split)
    return int((lowest < highest).sum())


def _shared_articles(contents: grouping.Contents, codes: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, float]:
    """Share of the photos of each split that hold an article which another split has too."""
    if len(contents.codes) == 0:
        return dict.fromkeys(names, 0.0)
    rows = contents.rows()
    seen = np.zeros((len(names), int(contents.codes.max()) + 1), dtype=np.bool_)
    assigned = codes[rows] >= 0
    seen[codes[rows][assigned], contents.codes[assigned]] = True
    elsewhere = seen.sum(axis=0) > 1
    shares = np.zeros(len(codes), dtype=np.bool_)
    shares[rows[assigned & elsewhere[contents.codes]]] = True
    return {name: _share(shares[codes == code]) for code, name in enumerate(names)}


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else 0.0
