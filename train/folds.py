"""Training on all folds but one, and judging on that one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bundle.errors import ConfigError
from train.data.manifest import Dataset

if TYPE_CHECKING:
    from pathlib import Path

_PREFIX = "fold"


def fold_splits(folder: Path, fold: int) -> tuple[str, str]:
    """Find what to learn from and what to judge on.

    Args:
        folder: A dataset split by `bintally data split --method kfold`.
        fold: The fold to hold back, from 0.

    Returns:
        (training splits joined by commas, evaluation split).

    Raises:
        InputError: No dataset there.
        ConfigError: It has no such fold.
    """
    names = Dataset.open(folder).split_names()
    folds = {int(name[len(_PREFIX) :]): name for name in names if _is_fold(name)}
    if fold not in folds or len(folds) < 2:  # noqa: PLR2004 - nothing would be left to learn from
        raise ConfigError(
            f"the dataset {folder} has no fold {fold}",
            got=", ".join(names) or "no split at all",
            fix="Split it with `bintally data split --method kfold`.",
        )
    return ",".join(folds[other] for other in sorted(folds) if other != fold), folds[fold]


def _is_fold(name: str) -> bool:
    return name.startswith(_PREFIX) and name[len(_PREFIX) :].isdigit()
