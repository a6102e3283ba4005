"""The two commands that make something of a finished dataset: `report` and `shards`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, cast

import click

from train.data.manifest import Dataset
from train.data.progress import progress

_PATH = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")


@click.command()
@click.argument("folder", type=_PATH)
@click.option("--out", type=_PATH, help="HTML file to write. Default: report.html in the dataset folder.")
@_JSON
def report(folder: Path, *, out: Path | None, as_json: bool) -> None:
    """Write one self-contained HTML page: classes, sizes, samples, blur, siblings, duplicates, what was rejected.

    \b
    Example:
      bintally data report data/bins && xdg-open data/bins/report.html
    """
    from train.data.report import write_report

    path = out or folder / "report.html"
    found = write_report(Dataset.open(folder), path)
    result = {"report": str(path), "photos": len(found.counts), "siblings": found.siblings,
              "duplicates": found.duplicate_pairs, "leaks": found.audit.leaks if found.audit else None}  # fmt: skip
    click.echo(json.dumps(result) if as_json else f"{path}: {len(found.counts)} photos")


@click.command()
@click.argument("folder", type=_PATH)
@click.option("--out", type=_PATH, required=True, help="Folder for the tars and their index.")
@click.option("--size", type=int, default=256, show_default=True, help="Width and height of the packed pictures, px.")
@click.option("--fit", type=click.Choice(["squash", "letterbox"]), default="squash", show_default=True)
@click.option("--encoding", type=click.Choice(["jpeg", "raw"]), default="jpeg", show_default=True)
@click.option("--quality", type=int, default=90, show_default=True, help="JPEG quality, 1 to 100.")
@click.option("--photos-per-shard", type=click.IntRange(1), default=2048, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace shards of another dataset or with other options.")
@click.option("--workers", type=click.IntRange(1), help="Processes. Default: one per core.")
@_JSON
def shards(  # noqa: PLR0913 - one parameter per option
    folder: Path, *, out: Path, size: int, fit: str, encoding: str, quality: int, photos_per_shard: int,
    overwrite: bool, workers: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Resize every photo once and pack them into tars, so that training is not bound by decoding.

    Pack at the input size of the network: then reading needs no resize. webdataset reads the tars as they are. A run
    that was interrupted goes on where it stopped.

    \b
    Example:
      bintally data shards data/bins --out data/bins-224 --size 224
    """
    from train.data.shards import ShardOptions, write_shards

    with progress("packing photos") as shown:
        options = ShardOptions(
            size=size,
            fit=cast('Literal["squash", "letterbox"]', fit),
            encoding=cast('Literal["jpeg", "raw"]', encoding),
            quality=quality,
            photos_per_shard=photos_per_shard,
            workers=workers,
            overwrite=overwrite,
            on_progress=shown,
        )
        write_shards(Dataset.open(folder), out, options)
    tars = sorted(out.glob("*.tar"))
    total = sum(tar.stat().st_size for tar in tars)
    if as_json:
        click.echo(json.dumps({"shards": str(out), "tars": len(tars), "bytes": total}))
    else:
        click.echo(f"{out}: {len(tars)} tars, {total / 1e6:.1f} MB")
