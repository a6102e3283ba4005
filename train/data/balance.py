"""Classes of very different size: which photos an epoch draws, and what each is worth.

All three answers have one shape, `Sampling`: rows of the manifest, possibly repeated, and a weight for each.

- `undersample`: every class cut down to the rarest one. Loses photos.
- `oversample`: rows of rare classes repeated until every class is as large as the largest. Loses nothing.
- `effective`: every row once, weighted by the effective number of samples, (1 - beta^n) / (1 - beta): the n-th photo
  of a class adds less than the first (Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", 2019).

Balancing is for training splits. A balanced test split measures a world that does not exist. The fourth answer, more
photos of the rare classes, is in `train.data.download` (`quota`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bundle import durable
from bundle.errors import ConfigError, InputError
from train.data.disk import writing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from train.data.manifest import Dataset

Method = Literal["undersample", "oversample", "effective"]
METHODS: tuple[Method, ...] = ("undersample", "oversample", "effective")
DEFAULT_BETA = 0.999
SAMPLING_NAME = "sampling.parquet"
_KEY = b"bintally.sampling"


@dataclass(frozen=True, slots=True)
class Sampling:
    """What an epoch draws.

    Attributes:
        rows: int64, (n,): rows of the manifest, ascending; repeated rows stand several times.
        weights: float32, (n,): what each is worth in the loss; mean 1.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float32]


def balance(
    rows: NDArray[np.int64],
    counts: NDArray[np.int32],
    method: Method,
    *,
    top: int | None = None,
    beta: float = DEFAULT_BETA,
    seed: int = 7,
) -> Sampling:
    """Balance the classes among some photos.

    Args:
        rows: int64, (n,): rows to choose from, such as `dataset.select(split="train")`.
        counts: int32, (all rows,): items in each bin.
        method: See the module.
        top: Counts from here on are one class, as in "6+"; None keeps every count apart.
        beta: For `effective`: 0 weights nothing, towards 1 weights by inverse frequency.
        seed: Which photos are dropped or repeated.

    Returns:
        The rows of one epoch with their weights.

    Raises:
        InputError: There are no rows.
        ConfigError: beta is not in [0, 1).
    """
    if len(rows) == 0:
        raise InputError("there are no photos to balance", fix="Check the split and the counts.")
    if not 0.0 <= beta < 1.0:
        raise ConfigError("beta is out of range", got=beta, expected="0 or more, less than 1")
    labels = counts[rows] if top is None else np.minimum(counts[rows], top)
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    classes = classes.reshape(-1)
    if method == "effective":
        weights = effective_weights(sizes, beta)[classes]
        return Sampling(rows, (weights / weights.mean()).astype(np.float32))
    wanted = int(sizes.min() if method == "undersample" else sizes.max())
    random = np.random.default_rng(seed)
    # Shuffled, then stably sorted by class: each class is a random sequence of photos, to be cut or gone round again.
    order = random.permutation(len(rows))
    order = order[np.argsort(classes[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    positions = starts[:, None] + np.arange(wanted)[None, :] % sizes[:, None]
    drawn = np.sort(rows[order[positions.reshape(-1)]])
    return Sampling(drawn, np.ones(len(drawn), np.float32))


def effective_weights(sizes: NDArray[np.int64], beta: float = DEFAULT_BETA) -> NDArray[np.float64]:
    """Weigh classes by the inverse of their effective number of samples.

    Args:
        sizes: int64, (classes,): photos of each class, at least 1.
        beta: 0 weights nothing, towards 1 weights by inverse frequency.

    Returns:
        float64, (classes,), mean 1.
    """
    weights = (1.0 - beta) / (1.0 - np.power(beta, sizes.astype(np.float64)))
    return np.asarray(weights / weights.mean(), dtype=np.float64)


def quota(counts: NDArray[np.int32], wanted: int, classes: range) -> dict[int, int]:
    """Say how many more photos each class needs.

    Args:
        counts: int32, (photos,): items in each bin that is there already.
        wanted: Photos that each class shall have.
        classes: The counts in question.

    Returns:
        Count to number of photos to fetch, for the classes that lack some.
    """
    present = {count: int((counts == count).sum()) for count in classes}
    return {count: wanted - number for count, number in present.items() if number < wanted}


def write_sampling(dataset: Dataset, sampling: Sampling, note: dict[str, object]) -> Path:
    """Keep a sampling beside the manifest that it was made for.

    Args:
        dataset: The dataset.
        sampling: Its rows and weights.
        note: How it came about.

    Returns:
        The file.

    Raises:
        ConfigError: The dataset folder cannot be written.
        DiskError: The disk is full.
    """
    remembered = json.dumps({"dataset": dataset.digest, **note}, sort_keys=True)
    table = pa.table({"row": sampling.rows, "weight": sampling.weights})
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_KEY: remembered.encode()}), sink, compression="zstd")
    path = dataset.folder / SAMPLING_NAME
    with writing(path):
        durable.write_bytes(path, sink.getvalue().to_pybytes())
    return path


def read_sampling(dataset: Dataset) -> Sampling:
    """Read the sampling of a dataset.

    Args:
        dataset: The dataset.

    Returns:
        Its rows and weights.

    Raises:
        InputError: There is none, or it was made for another manifest.
    """
    path = dataset.folder / SAMPLING_NAME
    try:
        table = pq.read_table(path)
        made_for = json.loads(table.schema.metadata[_KEY])["dataset"]
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as exc:
        raise InputError(f"{path} is no sampling", got=str(exc), fix="Make one with `bintally data balance`.") from exc
    if made_for != dataset.digest:
        raise InputError(
            f"{path} was made for another manifest",
            got=made_for,
            expected=dataset.digest,
            fix="Balance again after importing or splitting.",
        )
    return Sampling(table.column("row").to_numpy(), table.column("weight").to_numpy())
