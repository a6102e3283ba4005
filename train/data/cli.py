"""`bintally data ...`: thin commands over this package. stdout is data, stderr is progress and remarks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from bundle.errors import ConfigError, InputError
from train.data import layouts
from train.data.audit import audit as audit_split
from train.data.audit import describe, require_clean
from train.data.cli_fetch import balance, download
from train.data.cli_outputs import report, shards
from train.data.columns import NOTICES_NAME, REJECTED_NAME
from train.data.diff import difference, verify_photos
from train.data.importing import Imported, ImportOptions, import_listing
from train.data.listed import count_kinds
from train.data.manifest import Dataset
from train.data.official import split_official
from train.data.progress import progress
from train.data.split import DEFAULT_SEED, plan, preview
from train.data.split import split as split_dataset

if TYPE_CHECKING:
    from train.data.audit import Audit
    from train.data.layouts import Listing
    from train.data.split import Method

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
WORKERS_OPTION = click.option("--workers", type=click.IntRange(1), help="Processes. Default: one per core.")
_TOP_CLASS = 6
_ORDER = {"train": 0, "val": 1, "test": 2}


@click.group()
def data() -> None:
    """Make a dataset from photos: download, import, split, audit, balance, report, pack.

    A dataset is a folder with one manifest: every photo with its hash, size, count, contents and split. Its format and
    the rules of splitting stand in docs/datasets.md.

    \b
    From the public bucket to a report:
      bintally data download photos --counts 1-5 --limit 10000
      bintally data import photos --out data/bins
      bintally data report data/bins
    """


data.add_command(download)
data.add_command(balance)
data.add_command(report)
data.add_command(shards)


@data.command("import")
@click.argument("source", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Dataset folder to write.")
@click.option("--layout", type=click.Choice(["auto", *layouts.LAYOUTS]), default="auto", show_default=True)
@click.option("--photos", default="bin-images", show_default=True, help="Layout abid: which folder of photos.")
@click.option("--files", type=click.Choice(["reference", "link", "copy"]), default="reference", show_default=True,
              help="Leave the photos where they are, or bring them into the dataset folder.")  # fmt: skip
@click.option("--no-pixels", is_flag=True, help="Do not open the photos: no hashes, sizes or blur.")
@click.option("--no-split", is_flag=True, help="Do not split. Default: grouped, 80/10/10.")
@click.option("--overwrite", is_flag=True,
              help="Replace the dataset that is in --out, and the photos brought along with it.")  # fmt: skip
@WORKERS_OPTION
@JSON_OPTION
def import_command(  # noqa: PLR0913 - one parameter per option
    source: Path, *, out: Path, layout: str, photos: str, files: str, no_pixels: bool, no_split: bool, overwrite: bool,
    workers: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Turn photos and labels into a dataset, split without leaks.

    SOURCE is a folder in the layout of the public bucket (PHOTOS/ID.jpg and metadata/ID.json), a folder with one folder
    per count (3/anything.jpg), or a CSV with the columns path and count (and if wanted id, asins, group).

    Every file is taken, or listed with the reason in rejected.jsonl.

    \b
    Examples:
      bintally data import photos --out data/bins
      bintally data import labelled.csv --out data/bins --files copy
    """
    with progress("reading photos") as shown:
        options = ImportOptions(
            open_photos=not no_pixels,
            files=cast('Literal["reference", "link", "copy"]', files),
            overwrite=overwrite,
            workers=workers,
            on_progress=shown,
        )
        done = import_listing(_listing(source, layout, photos), out, options)
    dataset = done.dataset
    if not no_split:
        try:
            dataset = split_dataset(dataset)
        except InputError as exc:
            click.echo(f"not split: {exc}", err=True)
    _print_import(done, dataset, as_json=as_json)


def _listing(source: Path, layout: str, photos: str) -> Listing:
    if layout == "auto":
        layout = layouts.detect_layout(source)
    if layout == "abid":
        return layouts.list_abid(source, photos=photos)
    return layouts.list_folders(source) if layout == "folders" else layouts.list_csv(source)


def _print_import(done: Imported, dataset: Dataset, *, as_json: bool) -> None:
    result = {
        **_facts(dataset),
        "rejected": count_kinds(done.rejected),
        "notices": count_kinds(done.notices),
    }
    if as_json:
        click.echo(json.dumps(result))
        return
    _print_facts(dataset)
    for title, entries, name in (
        ("rejected", done.rejected, REJECTED_NAME),
        ("remarks", done.notices, NOTICES_NAME),
    ):
        kinds = ", ".join(f"{number} {kind}" for kind, number in count_kinds(entries).items())
        click.echo(f"{title:<12}{kinds or 'none'}{f'  (listed in {dataset.folder / name})' if entries else ''}")


@data.command()
@click.argument("folder", type=FOLDER)
@JSON_OPTION
def info(folder: Path, *, as_json: bool) -> None:
    """Show what a dataset holds.

    \b
    Example:
      bintally data info data/bins
    """
    dataset = Dataset.open(folder)
    if as_json:
        click.echo(json.dumps(_facts(dataset)))
    else:
        _print_facts(dataset)


def _facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "folder": str(dataset.folder),
        "digest": dataset.digest,
        "photos": len(dataset),
        "groups": dataset.group_count(),
        "classes": dataset.class_sizes(None, top=_TOP_CLASS),
        "splits": {name: dataset.class_sizes(name, top=_TOP_CLASS) for name in dataset.split_names()},
        "image_root": str(dataset.image_root),
        "note": dict(dataset.note),
    }


def _print_facts(dataset: Dataset) -> None:
    facts = _facts(dataset)
    click.echo(f"{'dataset':<12}{dataset.folder}  ({facts['photos']} photos in {facts['groups']} groups)")
    click.echo(f"{'digest':<12}{dataset.digest}")
    labels = list(facts["classes"])
    click.echo(f"{'count':<12}" + "".join(f"{label:>8}" for label in labels) + f"{'all':>9}")
    order = sorted(facts["splits"], key=lambda name: (_ORDER.get(name, len(_ORDER)), name))
    for name in ["all", *order]:
        sizes = facts["classes"] if name == "all" else facts["splits"][name]
        cells = "".join(f"{sizes.get(label, 0):>8}" for label in labels)
        click.echo(f"{name:<12}{cells}{sum(sizes.values()):>9}")


@data.command()
@click.argument("folder", type=FOLDER)
@click.option("--method", type=click.Choice(["grouped", "random", "kfold", "official"]), default="grouped",
              show_default=True)  # fmt: skip
@click.option("--shares", help="Such as train=0.8,val=0.1,test=0.1 (the default), for grouped and random.")
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="For kfold.")
@click.option("--seed", type=int, default=DEFAULT_SEED, show_default=True)
@click.option("--train-list", type=FILE, help="For official: counting_train.json of the challenge.")
@click.option("--val-list", type=FILE, help="For official: counting_val.json of the challenge.")
@click.option("--allow-leak", is_flag=True, help="Write the split even if the leak audit fails.")
@JSON_OPTION
def split(  # noqa: PLR0913 - one parameter per option
    folder: Path, *, method: str, shares: str | None, folds: int, seed: int, train_list: Path | None,
    val_list: Path | None, allow_leak: bool, as_json: bool,
) -> None:  # fmt: skip
    """Assign photos to splits, and audit the result for leaks.

    grouped keeps photos of the same bin together and is what to report. random and official exist to compare with
    published numbers; both leak, so they are refused unless --allow-leak is given.

    \b
    Examples:
      bintally data split data/bins --seed 3
      bintally data split data/bins --method kfold --folds 5
      bintally data split data/bins --method random --allow-leak
    """
    dataset = Dataset.open(folder)
    if method == "official":
        if train_list is None or val_list is None:
            raise ConfigError("an official split needs --train-list and --val-list")
        wanted = split_official(dataset, train_list, val_list)
        candidate = wanted.dataset
        remarks = {"absent": wanted.absent, "unlisted": wanted.unlisted, "other_count": len(wanted.other_count)}
    else:
        how = plan(cast("Method", method), shares=_parse_shares(shares), folds=folds, seed=seed)
        candidate, remarks = preview(dataset, how), {}
    found = audit_split(candidate) if allow_leak else require_clean(candidate)
    dataset = candidate.save(candidate.table, candidate.note)
    if found.leaks:
        click.echo(f"this split leaks: {describe(found)}", err=True)
    if as_json:
        click.echo(json.dumps({**_facts(dataset), "audit": found.as_json(), **remarks}))
        return
    _print_facts(dataset)
    for name, value in remarks.items():
        click.echo(f"{name:<12}{value}")
    _print_audit(found)


def _parse_shares(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    try:
        return {name.strip(): float(value) for name, value in (part.split("=") for part in text.split(","))}
    except ValueError as exc:
        raise ConfigError("--shares is not readable", got=text, expected="such as train=0.8,val=0.1,test=0.1") from exc


@data.command()
@click.argument("folder", type=FOLDER)
@JSON_OPTION
def audit(folder: Path, *, as_json: bool) -> None:
    """Look for photos whose twin lies in another split. Exit code 65 when there are any.

    \b
    Example:
      bintally data audit data/bins && bintally train data/bins --out runs/first
    """
    dataset = Dataset.open(folder)
    found = audit_split(dataset)
    if as_json:
        click.echo(json.dumps(found.as_json()))
    else:
        _print_audit(found)
    require_clean(dataset)


def _print_audit(found: Audit) -> None:
    click.echo(f"{'audit':<12}{describe(found)} ({found.pairs} pairs of the same bin looked up)")


@data.command()
@click.argument("folder", type=FOLDER)
@WORKERS_OPTION
@JSON_OPTION
def verify(folder: Path, *, workers: int | None, as_json: bool) -> None:
    """Read every photo again and compare it with the manifest. Exit code 65 when one changed or vanished.

    \b
    Example:
      bintally data verify data/bins
    """
    dataset = Dataset.open(folder)
    with progress("reading photos") as shown:
        bad = verify_photos(dataset, workers=workers, on_progress=shown)
    if as_json:
        click.echo(json.dumps({"photos": len(dataset), "bad": [asdict(entry) for entry in bad]}))
    else:
        for entry in bad:
            click.echo(f"{entry.name}: {entry.kind}: {entry.reason}")
        click.echo(f"{len(dataset) - len(bad)} of {len(dataset)} photos are as they were at import")
    if bad:
        raise InputError(f"{len(bad)} photos of {folder} are not as they were at import", fix="Import again.")


@data.command()
@click.argument("first", type=FOLDER)
@click.argument("second", type=FOLDER)
@JSON_OPTION
def diff(first: Path, second: Path, *, as_json: bool) -> None:
    """Show which photos differ between two datasets: added, removed, other bytes, count, contents or split.

    \b
    Example:
      bintally data diff data/bins-may data/bins-june
    """
    found = difference(Dataset.open(first), Dataset.open(second))
    if as_json:
        click.echo(json.dumps({"same": found.same, **asdict(found)}))
        return
    for name, ids in {"removed": found.removed, "added": found.added, **found.changed}.items():
        shown = ", ".join(ids[:5]) + (" ..." if len(ids) > 5 else "")  # noqa: PLR2004 - a line's worth
        click.echo(f"{name:<12}{len(ids)}{f'  {shown}' if ids else ''}")
