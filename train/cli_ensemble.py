"""`bintally ensemble`: a thin command over `train.ensemble`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("runs", type=_FOLDER, nargs=-1, required=True)
@click.option("--out", type=_FOLDER, required=True, help="Run folder to write.")
@click.option("--counts", help="Count classes it answers with, which every member knows: 1-5. [default: the first's]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object on stdout.")
def ensemble(runs: Sequence[Path], out: Path, counts: str | None, *, as_json: bool) -> None:
    """Put finished RUNS together: one run that answers with their mean.

    The members learned from the same photos and were judged on the same others; they differ in seed, recipe or network.
    OUT is a run like any other: evaluate it, export it, let it teach. On the robot it takes as long as all members.

    \b
    Examples:
      bintally ensemble runs/a runs/b --out runs/both
      bintally evaluate runs/both --data data/bins --split val --tta
      bintally train data/bins --out runs/small --teacher runs/both --weights hub
    """
    from train.cli_evaluate import print_figures
    from train.config import parse_counts
    from train.ensemble import make_ensemble

    figures = make_ensemble(runs, out, counts=None if counts is None else parse_counts(counts))
    print_figures(figures, as_json=as_json)
