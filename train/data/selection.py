"""Which photos to download: everything, a list of ids, the list of a well-known course, a range of counts, so many."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter, ValidationError

from bundle.errors import ConfigError, InputError
from train.data.abid import MAX_COUNT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_FILE_LIST = TypeAdapter(dict[str, list[str]])
_COUNTS = re.compile(r"^(\d+)(?:-(\d+)|(\+))?$")
_SAFE_ID = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")


@dataclass(frozen=True, slots=True)
class Selection:
    """What to download.

    Attributes:
        ids: The ids to consider, in this order; None is everything that the bucket lists.
        claimed: What a list says of the counts; a record that says otherwise is remarked upon, and wins.
        counts: Counts to keep; None keeps all.
        limit: Photos in all; None takes every one that fits.
        quota: Photos of each count; None sets no bound. Counts that are not in it are not wanted.
        exclude: Ids that are not wanted, such as those of a dataset that is there already.
        shuffle: Seed to consider the ids in random order; None keeps theirs.
    """

    ids: tuple[str, ...] | None = None
    claimed: Mapping[str, int] = field(default_factory=dict)
    counts: range | None = None
    limit: int | None = None
    quota: Mapping[int, int] | None = None
    exclude: frozenset[str] = frozenset()
    shuffle: int | None = None

    def fits(self, count: int) -> bool:
        """Say whether photos with a count are wanted at all.

        Args:
            count: Items in the bin.

        Returns:
            False when no such photo is wanted, however many there are already.
        """
        return (self.counts is None or count in self.counts) and (self.quota is None or count in self.quota)

    def order(self, ids: list[str]) -> list[str]:
        """Bring ids into the order in which they are considered.

        Args:
            ids: All candidates.

        Returns:
            Those that are not excluded.
        """
        wanted = [name for name in ids if name not in self.exclude]
        if self.shuffle is None:
            return wanted
        return [wanted[index] for index in np.random.default_rng(self.shuffle).permutation(len(wanted))]


@dataclass(slots=True)
class Picker:
    """Decides photo by photo, in the order of the ids, so that equal answers give equal selections.

    Attributes:
        selection: What is wanted.
        taken: Photos taken so far, by count.
    """

    selection: Selection
    taken: dict[int, int] = field(default_factory=dict)

    @property
    def remaining(self) -> int | None:
        """Photos that are still wanted; None without a bound."""
        limit, quota = self.selection.limit, self.selection.quota
        bounds = [] if limit is None else [limit - sum(self.taken.values())]
        if quota is not None:
            bounds.append(sum(max(number - self.taken.get(count, 0), 0) for count, number in quota.items()))
        return min(bounds, default=None)

    @property
    def full(self) -> bool:
        """Whether nothing more is wanted."""
        return self.remaining is not None and self.remaining <= 0

    def take(self, count: int) -> bool:
        """Decide on the next photo.

        Args:
            count: What its record says.

        Returns:
            Whether it is wanted; then it is counted as taken.
        """
        wanted = self.selection
        if self.full or not wanted.fits(count):
            return False
        if wanted.quota is not None and self.taken.get(count, 0) >= wanted.quota[count]:
            return False
        self.taken[count] = self.taken.get(count, 0) + 1
        return True


def parse_counts(text: str) -> range:
    """Read a range of counts.

    Args:
        text: `3`, `1-5` or `6+`.

    Returns:
        The counts.

    Raises:
        ConfigError: It is none of these.
    """
    match = _COUNTS.match(text.strip())
    if match is None:
        raise ConfigError("a range of counts is not one", got=repr(text), expected="such as 3, 1-5 or 6+")
    first, last, and_more = int(match[1]), match[2], match[3]
    final = MAX_COUNT if and_more else int(last) if last else first
    if final < first:
        raise ConfigError("a range of counts runs backwards", got=repr(text), expected="such as 1-5")
    return range(first, final + 1)


def read_ids(path: Path) -> tuple[str, ...]:
    """Read a list of ids, one per line. Blank lines and lines that start with # are skipped.

    Args:
        path: The file. Names such as `bin-images/00001.jpg` are read as `00001`.

    Returns:
        Ids in the order of the file, as spelled: `1044` is not `01044`.

    Raises:
        InputError: It cannot be read, is empty, or a line is no id.
    """
    lines = [line.strip() for line in _read_text(path).splitlines()]
    ids = [_id_of(line, path) for line in lines if line and not line.startswith("#")]
    if not ids:
        raise InputError(f"{path} lists no ids")
    return tuple(dict.fromkeys(ids))


def read_file_list(path: Path) -> dict[str, int]:
    """Read the Udacity course's `file_list.json`: `{"1": ["data/metadata/00007.json", ...], "2": ...}`.

    Args:
        path: The file.

    Returns:
        Id to the count that the list claims, in the order of the file.

    Raises:
        InputError: It cannot be read or has another form, or an id stands under two counts.
    """
    try:
        classes = _FILE_LIST.validate_json(_read_text(path))
    except ValidationError as exc:
        found = exc.errors(include_url=False)[0]["msg"]
        raise InputError(
            f"{path} is not a file list", got=found, expected='{"1": ["data/metadata/00007.json", ...], ...}'
        ) from exc
    claimed: dict[str, int] = {}
    for label, names in classes.items():
        if not (label.isascii() and label.isdecimal()):
            raise InputError(f"{path} has a class that is no count", got=repr(label), expected="such as 3")
        for name in names:
            identity = _id_of(name, path)
            if claimed.setdefault(identity, int(label)) != int(label):
                raise InputError(f"{path} lists {identity} under two counts", got=f"{claimed[identity]} and {label}")
    if not claimed:
        raise InputError(f"{path} lists no ids")
    return claimed


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path} cannot be read", got=str(exc)) from exc


def _id_of(name: str, path: Path) -> str:
    pure = PurePosixPath(name)
    identity = pure.stem if pure.suffix in {".jpg", ".jpeg", ".png", ".json"} else pure.name
    if not _SAFE_ID.match(identity):
        raise InputError(f"{path} holds a line that is no id", got=repr(name), expected="such as 00001")
    return identity
