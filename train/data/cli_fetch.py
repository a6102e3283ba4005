"""The two commands that fetch photos: `download`, and `balance` when it asks for more of the rare classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import numpy as np

from bundle.errors import ConfigError, DeliveryError
from train.data import balance as balancing
from train.data.bucket import PUBLIC_BUCKET, PUBLIC_REGION, Bucket, BucketOptions
from train.data.download import DownloadOptions
from train.data.download import download as fetch
from train.data.manifest import Dataset
from train.data.progress import progress
from train.data.selection import Selection, parse_counts, read_file_list, read_ids
from train.data.tally import MISSING_NAME, Downloaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_PATH = click.Path(path_type=Path)
_SHOWN = 5


def _bucket_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where to read from."""
    for option in (
        click.option("--connections", type=click.IntRange(1, 512), default=32, show_default=True),
        click.option("--signed", is_flag=True, help="Use credentials from the environment. Default: read as nobody."),
        click.option("--region", default=PUBLIC_REGION, show_default=True),
        click.option("--endpoint", help="Address of any S3 endpoint. Default: AWS."),
        click.option("--bucket", default=PUBLIC_BUCKET, show_default=True),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("out", type=_PATH)
@click.option("--ids", "id_file", type=_PATH, help="File with one id per line. Default: everything in the bucket.")
@click.option("--file-list", type=_PATH, help="The Udacity course's file_list.json.")
@click.option("--counts", help="Only photos with these counts: 3, 1-5 or 6+.")
@click.option("--limit", type=click.IntRange(1), help="Photos in all.")
@click.option("--per-class", type=click.IntRange(1), help="Photos of each count; needs --counts.")
@click.option("--shuffle", type=int, help="Seed: consider the ids in random order.")
@click.option("--exclude", type=_PATH, help="A dataset whose photos are not wanted again.")
@_bucket_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def download(  # noqa: PLR0913 - one parameter per option
    out: Path, *, id_file: Path | None, file_list: Path | None, counts: str | None, limit: int | None,
    per_class: int | None, shuffle: int | None, exclude: Path | None, bucket: str, endpoint: str | None, region: str,
    signed: bool, connections: int, as_json: bool,
) -> None:  # fmt: skip
    """Fetch photos and their records from the public bucket into OUT.

    May be interrupted at any time, by Ctrl-C or worse: files have their name only when they are whole, and the same
    command fetches what is missing. What could not be fetched stands in OUT/missing.jsonl; the exit code is then 75.

    Photos: Amazon Bin Image Dataset, CC BY-NC-SA 3.0 US.

    \b
    Examples:
      bintally data download photos --counts 1-5 --limit 10000
      bintally data download photos --file-list file_list.json
      bintally data download photos --counts 0-5 --per-class 2000 --shuffle 1
    """
    if id_file is not None and file_list is not None:
        raise ConfigError("--ids and --file-list exclude each other")
    claimed = {} if file_list is None else read_file_list(file_list)
    ids = tuple(claimed) if file_list is not None else None if id_file is None else read_ids(id_file)
    wanted = None if counts is None else parse_counts(counts)
    if per_class is not None and wanted is None:
        raise ConfigError("--per-class needs --counts", fix="Say which classes, such as --counts 1-5.")
    selection = Selection(
        ids=ids,
        claimed=claimed,
        counts=wanted,
        limit=limit,
        quota=None if per_class is None or wanted is None else dict.fromkeys(wanted, per_class),
        exclude=frozenset() if exclude is None else _ids_of(Dataset.open(exclude)),
        shuffle=shuffle,
    )
    options = BucketOptions(bucket, endpoint, region, signed=signed, connections=connections)
    _finish(_fetch(options, out, selection), out, as_json=as_json)


def _ids_of(dataset: Dataset) -> frozenset[str]:
    return frozenset(dataset.ids.to_pylist())


def _fetch(options: BucketOptions, out: Path, selection: Selection) -> Downloaded:
    with progress("photos", show_bytes=True) as shown:
        how = DownloadOptions(connections=options.connections, on_progress=shown)
        return fetch(Bucket(options), out, selection, how)


def _finish(done: Downloaded, out: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(done.as_json()))
    else:
        rate = done.bytes / 1e6 / max(done.seconds, 1e-9)
        click.echo(f"{done.photos} photos in {out}: {done.fetched} files fetched, {done.present} were there already")
        click.echo(f"{done.bytes / 1e6:.1f} MB in {done.seconds:.1f} s ({rate:.1f} MB/s)")
        click.echo("by count: " + ", ".join(f"{count}: {number}" for count, number in sorted(done.by_count.items())))
        for entry in done.remarks[:_SHOWN]:
            click.echo(f"{entry.name}: {entry.reason}")
    if done.missing:
        raise DeliveryError(
            f"{len(done.missing)} photos are missing",
            got=f"such as {done.missing[0].name}: {done.missing[0].reason}",
            fix=f"All of them stand in {out / MISSING_NAME}; the same command tries them again.",
        )


@click.command()
@click.argument("folder", type=_PATH)
@click.option("--method", type=click.Choice([*balancing.METHODS, "fetch"]), default="effective", show_default=True)
@click.option("--split", default="train", show_default=True, help="Which split to balance.")
@click.option("--counts", default="0-5", show_default=True, help="Which counts.")
@click.option("--top", type=click.IntRange(1), help="Counts from here on are one class, as in 6+.")
@click.option("--beta", type=float, default=balancing.DEFAULT_BETA, show_default=True, help="For effective.")
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--per-class", type=click.IntRange(1), help="For fetch: photos that each class shall have.")
@click.option("--into", type=_PATH, help="For fetch: where to download to; import it afterwards.")
@_bucket_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def balance(  # noqa: PLR0913 - one parameter per option
    folder: Path, *, method: str, split: str, counts: str, top: int | None, beta: float, seed: int,
    per_class: int | None, into: Path | None, bucket: str, endpoint: str | None, region: str, signed: bool,
    connections: int, as_json: bool,
) -> None:  # fmt: skip
    """Even out classes: draw fewer, draw more often, weigh, or fetch more of the rare ones.

    undersample, oversample and effective write sampling.parquet beside the manifest: rows and weights of one epoch, for
    training. fetch downloads photos of the classes that have fewer than --per-class, none that the dataset has already.

    \b
    Examples:
      bintally data balance data/bins --method effective --counts 1-5
      bintally data balance data/bins --method fetch --per-class 2000 --counts 1-5 --into photos
    """
    dataset = Dataset.open(folder)
    wanted = parse_counts(counts)
    if method == "fetch":
        if per_class is None or into is None:
            raise ConfigError("--method fetch needs --per-class and --into")
        lacking = balancing.quota(dataset.counts, per_class, wanted)
        selection = Selection(quota=lacking, exclude=_ids_of(dataset), shuffle=seed)
        options = BucketOptions(bucket, endpoint, region, signed=signed, connections=connections)
        _finish(_fetch(options, into, selection), into, as_json=as_json)
        return
    rows = dataset.select(split=split, counts=wanted)
    chosen = cast("balancing.Method", method)
    sampling = balancing.balance(rows, dataset.counts, chosen, top=top, beta=beta, seed=seed)
    note: dict[str, object] = {"method": method, "split": split, "counts": counts, "beta": beta, "seed": seed}
    path = balancing.write_sampling(dataset, sampling, note)
    before, after = _classes(dataset, rows, top), _classes(dataset, sampling.rows, top)
    result: dict[str, Any] = {"sampling": str(path), "rows": len(sampling.rows), "before": before, "after": after,
                              "weights": _weights(dataset, sampling, top)}  # fmt: skip
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"{'count':<10}{'photos':>10}{'an epoch':>10}{'weight':>10}")
    for label in before:
        click.echo(f"{label:<10}{before[label]:>10}{after[label]:>10}{result['weights'][label]:>10.3f}")
    click.echo(f"written to {path}")


def _labels(dataset: Dataset, rows: NDArray[np.int64], top: int | None) -> NDArray[np.int32]:
    labels: NDArray[np.int32] = dataset.counts[rows] if top is None else np.minimum(dataset.counts[rows], top)
    return labels


def _classes(dataset: Dataset, rows: NDArray[np.int64], top: int | None) -> dict[str, int]:
    labels, sizes = np.unique(_labels(dataset, rows, top), return_counts=True)
    return {_name(label, top): int(size) for label, size in zip(labels, sizes, strict=True)}


def _weights(dataset: Dataset, sampling: balancing.Sampling, top: int | None) -> dict[str, float]:
    labels = _labels(dataset, sampling.rows, top)
    return {_name(label, top): round(float(sampling.weights[labels == label][0]), 4) for label in np.unique(labels)}


def _name(label: int, top: int | None) -> str:
    return f"{label}+" if label == top else str(label)
