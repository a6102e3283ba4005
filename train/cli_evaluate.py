"""`bintally evaluate`: a thin command over `train.evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bundle.manifest import CountClasses
    from train.evaluate import Question
    from train.progress import Progress

_FOLDER = click.Path(path_type=Path)
_FIGURES = (
    "accuracy",
    "within_1",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "rmse",
    "rmse_posterior_mean",
    "mae",
    "ece",
    "aurc",
)


@click.command()
@click.argument("targets", type=_FOLDER, nargs=-1, required=True)
@click.option(
    "--data", type=_FOLDER, help="Dataset folder; with --pool, left away, the answers kept by the runs count."
)
@click.option("--split", help="Split, or several: fold1,fold2. [default: the one a run was judged on; a bundle, val]")
@click.option("--counts", help="Judge photos with these counts alone, given that it is one of them: 1-5.")
@click.option(
    "--tta", is_flag=True, help="Average the answers to each photo and its mirror image; takes twice as long."
)
@click.option("--pool", "pooled", is_flag=True, help="Judge several runs, folds or seeds, as one result.")
@click.option(
    "--against", type=_FOLDER, multiple=True, metavar="RUN", help="With --pool: compare with these; repeat it."
)
@click.option("--engine", default="auto", show_default=True, help="Which engine answers, for a bundle.")
@click.option("--predictions", type=_FOLDER, help="Keep every answer in this .npz file.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object on stdout.")
def evaluate(targets: Sequence[Path], *, as_json: bool, **flags: Any) -> None:  # noqa: ANN401 - click's own values
    """Judge TARGET, a run or a bundle, on a dataset: every figure with its 95 % interval.

    A bundle answers through the code that a robot runs, calibrated confidence included. With --pool, several runs are
    one result: each photo counts once, whoever answered for it, and --against compares two sets of runs photo by photo.

    \b
    Examples:
      bintally evaluate runs/first --data data/bins --split val
      bintally evaluate bundles/first --data data/bins --split test --json
      bintally evaluate runs/k0 runs/k1 runs/k2 runs/k3 runs/k4 --pool --against runs/f0 --against runs/f1 \\
          --against runs/f2 --against runs/f3 --against runs/f4
      torchrun --nproc-per-node 2 -m bintally evaluate runs/first --data data/bins
    """
    from train.progress import RichProgress

    pooled, against = flags["pooled"], flags["against"]
    if pooled and flags["predictions"]:
        raise ConfigError("--pool keeps no answers", fix="Leave --predictions away; every run keeps its own.")
    if not pooled and (len(targets) > 1 or against or flags["data"] is None):
        raise ConfigError(
            "without --pool, one run or bundle is judged on one dataset",
            got=f"{len(targets)} targets, --data {flags['data']}",
            fix="Add --pool, or give one TARGET and --data.",
        )
    with RichProgress() as progress:
        if pooled:
            _pool(targets, against, flags, progress, as_json=as_json)
        else:
            _one(targets[0], flags, progress, as_json=as_json)


def _question(flags: dict[str, Any]) -> Question | None:
    from train.data.manifest import Dataset
    from train.evaluate import Question

    if flags["data"] is None:
        if flags["tta"] or flags["split"]:
            raise ConfigError("--tta and --split ask anew and need the photos", fix="Add --data DATASET.")
        return None
    return Question(Dataset.open(flags["data"]), flags["split"], mirrored=flags["tta"], engine=flags["engine"])


def _one(target: Path, flags: dict[str, Any], progress: Progress, *, as_json: bool) -> None:
    from train.evaluate import evaluate as run_evaluation

    question = _question(flags)
    if question is None:
        raise ConfigError("no dataset is given", expected="--data DATASET")
    figures = run_evaluation(
        target, question, progress=progress, counts=_counts(flags), predictions=flags["predictions"]
    )
    if figures is not None:
        print_figures(figures, as_json=as_json)


def _counts(flags: dict[str, Any]) -> CountClasses | None:
    from train.config import parse_counts

    return None if flags["counts"] is None else parse_counts(flags["counts"])


def _pool(
    targets: Sequence[Path], against: Sequence[Path], flags: dict[str, Any], progress: Progress, *, as_json: bool
) -> None:
    from train.evaluate import evaluate_pool

    found = evaluate_pool(targets, against, question=_question(flags), progress=progress, counts=_counts(flags))
    if as_json:
        click.echo(json.dumps(found))
        return
    _print_estimates(found)
    click.echo(f"{'photos':<22}{found['n']}   {found['runs']} runs")
    if against:
        click.echo(f"\nagainst {', '.join(found['against']['targets'])}")
        _print_estimates(found["against"])
        click.echo("\ndifference, photo by photo")
        _print_estimates(found["difference"], sign="+")


def print_figures(figures: dict[str, Any], *, as_json: bool) -> None:
    """Print the figures of one run or bundle on stdout.

    Args:
        figures: From `train.job.train` or `train.evaluate.evaluate`.
        as_json: As one JSON object; else as a table.
    """
    if as_json:
        click.echo(json.dumps(figures))
        return
    _print_estimates(figures)
    click.echo(f"{'photos':<22}{figures['n']}   {figures['split']} split")
    click.echo("\ntrue \\ answer" + "".join(f"{name:>7}" for name in figures["classes"]) + "   recall")
    for name, row in zip(figures["classes"], figures["confusion"], strict=True):
        recall = figures["per_class"][name]["recall"]
        click.echo(f"{name:>13}" + "".join(f"{value:>7}" for value in row) + f"   {recall:.1%}")


def _print_estimates(figures: dict[str, Any], *, sign: str = "") -> None:
    for name in _FIGURES:
        if name in figures:
            low, high = (f"{value:{sign}.4f}" for value in figures[f"{name}_ci"])
            click.echo(f"{name:<22}{figures[name]:{sign}.4f}   95 % interval {low} to {high}")
