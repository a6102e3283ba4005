"""What a study searches and from what: checked before the first draw, written down, never mixed with another search."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bundle import durable
from bundle.errors import ConfigError
from train.config import load_config
from train.data.manifest import Dataset
from train.place import with_hashes
from train.run import CONFIG_NAME, read_config
from train.search import Range

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from train.place import Place
    from train.search import Space

STUDY_FILE = "study.json"


def check_space(base: Mapping[str, Any], space: Space) -> None:
    """Refuse a search with a key or a value that no training takes.

    Args:
        base: (dotted key -> value) that every trial starts from.
        space: Its choices and the ends of its ranges are tried, each alone.

    Raises:
        ConfigError: Unknown key or a value out of range; the message names the key.
    """
    for key, dimension in space.items():
        for value in (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension.values:
            load_config(None, [(key, value)], base=base)


def files_of(base: Mapping[str, Any], place: Place) -> dict[str, str | None]:
    """Hashes of the files that decide every trial's result.

    Args:
        base: (dotted key -> value) that every trial starts from.
        place: Names dataset and weights.

    Returns:
        "dataset": the dataset's digest; "weights": hash of the weights file, or None without one.

    Raises:
        ConfigError: `model.weights` and the weights file disagree.
        InputError: Dataset or weights cannot be read.
    """
    hashed = with_hashes(load_config(None, base=base), place)
    return {"dataset": Dataset.open(place.dataset).digest, "weights": hashed.model.weights_sha256}


def agree(out: Path, wanted: Mapping[str, Any]) -> None:
    """Write down what is searched, or refuse to mix two searches in one folder.

    Args:
        out: Folder of the study; nobody else may be in here meanwhile.
        wanted: All that every process of the study must have in common, as `json.dumps` takes it.

    Raises:
        ConfigError: The study in `out` searches something else.
        OSError: The disk refused.
    """
    path = out / STUDY_FILE
    wanted = json.loads(json.dumps(wanted))
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else wanted
    # A study of an earlier version names no files; its trials do.
    found = {**wanted, **_files_of_a_trial(out), **known} if wanted.keys() - known.keys() else known
    if found != wanted:
        differing = ", ".join(sorted(key for key in wanted if wanted[key] != found.get(key)))
        raise ConfigError(
            f"the study in {out} searches something else",
            got=f"another {differing}",
            fix="Use the dataset, weights and flags it was started with, or another --out.",
        )
    if known != wanted or not path.exists():
        durable.write_json(path, wanted)


def _files_of_a_trial(out: Path) -> dict[str, str | None]:
    for path in sorted((out / "trials").glob(f"*/{CONFIG_NAME}")):
        started = read_config(path.parent)
        return {"dataset": started.origin.dataset_sha256, "weights": started.config.model.weights_sha256}
    return {}
