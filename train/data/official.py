"""The split of the published counting challenge, from its own two lists.

`counting_train.json` and `counting_val.json` hold `[index, quantity]` with index = file number - 1, and mean the
padded names: `[0, 2]` is `00001.jpg` with 2 items. Read without that shift, 9 of 10 labels are another bin's. The
challenge gave quantity 0 to photos without metadata; here such a photo was rejected at import, so it takes no part.

The lists were drawn photo by photo: about 64 % of the validation photos have a photo of the same bin in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, StrictInt, TypeAdapter, ValidationError

from bundle.errors import InputError
from train.data.identity import number_series

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from train.data.manifest import Dataset

_PADDED = 0
_ENTRIES = TypeAdapter(list[tuple[Annotated[StrictInt, Field(ge=0)], Annotated[StrictInt, Field(ge=0)]]])
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class OfficialSplit:
    """What came of the challenge's lists.

    Attributes:
        dataset: The dataset with its split.
        absent: Photos of the lists that the dataset does not have.
        unlisted: Photos of the dataset that stand in no list; they are unassigned.
        other_count: Ids whose count differs from the list's; they are unassigned as well.
    """

    dataset: Dataset
    absent: int
    unlisted: int
    other_count: tuple[str, ...]


def split_official(dataset: Dataset, train_list: Path, val_list: Path) -> OfficialSplit:
    """Split as the challenge did, in memory: `result.dataset.save(...)` writes it.

    Args:
        dataset: The dataset; a split that it has is replaced.
        train_list: counting_train.json.
        val_list: counting_val.json.

    Returns:
        The dataset with its split, and what did not fit.

    Raises:
        InputError: A list cannot be read, a photo stands in both, or no photo of the dataset stands in either.
    """
    entries = [_read_list(train_list), _read_list(val_list)]
    both = entries[0][np.isin(entries[0][:, 0], entries[1][:, 0]), 0]
    if len(both):
        shown = ", ".join(str(number) for number in both[:_SHOWN])
        raise InputError(f"{train_list} and {val_list} share {len(both)} photos", got=shown, expected="none")
    numbers, series = number_series(dataset.ids)
    rows = np.flatnonzero((series == _PADDED) & (numbers >= 0))
    codes = np.full(len(dataset), -1, dtype=np.int64)
    other: list[NDArray[np.int64]] = []
    for code, listed in enumerate(entries):
        order = np.argsort(listed[:, 0])
        wanted, quantity = listed[order].T
        at = np.minimum(np.searchsorted(wanted, numbers[rows]), len(wanted) - 1)
        found = wanted[at] == numbers[rows]
        agrees = found & (quantity[at] == dataset.counts[rows])
        codes[rows[agrees]] = code
        other.append(rows[found & ~agrees])
    differing = np.sort(np.concatenate(other))
    taken = int((codes >= 0).sum())
    if taken == 0:
        raise InputError(f"no photo of {dataset.folder} stands in {train_list.name} or {val_list.name}")
    note = {**dataset.note, "split": {"method": "official"}}
    return OfficialSplit(
        dataset.preview(dataset.with_splits(codes, ["train", "val"]), note),
        absent=sum(len(listed) for listed in entries) - taken - len(differing),
        unlisted=len(dataset) - taken - len(differing),
        other_count=tuple(dataset.id_of(row) for row in differing),
    )


def _read_list(path: Path) -> NDArray[np.int64]:
    """Read one list as int64, (n, 2): file number and quantity."""
    try:
        entries = np.array(_ENTRIES.validate_json(path.read_bytes()), dtype=np.int64).reshape(-1, 2)
    except OSError as exc:
        raise InputError(f"{path} cannot be read", got=exc.strerror) from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise InputError(
            f"{path} is not a list of the counting challenge",
            got=f"{where}: {first['msg']}",
            expected="[[index, quantity], ...]",
        ) from exc
    if len(entries) == 0:
        raise InputError(f"{path} is empty")
    if (np.diff(np.sort(entries[:, 0])) == 0).any():
        raise InputError(f"{path} lists a photo twice")
    shifted: NDArray[np.int64] = entries + np.array([1, 0])
    return shifted
