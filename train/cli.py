"""`bintally train`: a thin command over `train.job`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train.config import TrainConfig
    from train.place import Place

_FOLDER = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object on stdout.")
_STOPPED_EXIT_CODE = 75
"""EX_TEMPFAIL: start the same command again with --resume."""


@click.command()
@click.argument("dataset", type=_FOLDER)
@click.option("--out", type=_FOLDER, required=True, help="Run folder to write.")
@click.option("--config", "config_path", type=_FOLDER, help="TOML file; flags win over it.")
@click.option("--preset", help="A named starting point: bintally-best, khaled-2023, ...; TOML and flags win over it.")
@click.option("--fold", type=click.IntRange(0), help="Learn from all folds of a k-fold split but this, judge on it.")
@click.option("--counts", help="Count classes the counter answers with: 1-5, or 0-6+ (six or more). [default: 0-6+]")
@click.option("--supervise", help="Wider count classes to learn from, such as 0-10+; cut to --counts at the end.")
@click.option("--model", help="Any torchvision classifier. [default: mobilenet_v2]")
@click.option("--weights", help="none, hub (torchvision's own, downloaded) or a local file. [default: none]")
@click.option("--mean", help="Input mean the weights expect, RGB on 0..1: 0.5,0.5,0.5. [default: the weights' own]")
@click.option("--std", help="Input standard deviation, likewise.")
@click.option("--size", type=int, help="Input width and height, pixels. [default: 224]")
@click.option("--stages", help="Smaller inputs first: 160x8,224x8 is 8 epochs at 160 pixels, then 8 at 224.")
@click.option("--epochs", type=int, help="Passes over the training photos. [default: 12]")
@click.option("--batch-size", type=int, help="Photos per step. [default: 32]")
@click.option("--lr", type=float, help="Highest learning rate. [default: 0.001]")
@click.option("--seed", type=int, help="Of weights, order and augmentation. [default: 0]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other key: --set loss.weight=0.3")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option(
    "--threads", type=click.IntRange(1), help="Threads that compute. [default: OMP_NUM_THREADS, or every core]"
)
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Threads that prepare photos.")
@click.option("--checkpoint-s", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Seconds.")
@click.option("--resume", is_flag=True, help="Go on from the run folder's checkpoint; starts where there is none.")
@click.option(
    "--mirror", metavar="s3://BUCKET/PREFIX", help="Copy each checkpoint there; a fresh machine resumes from it."
)
@click.option("--teacher", "teachers", type=_FOLDER, multiple=True, metavar="RUN", help="Learn from finished runs too.")
@click.option("--shards", type=_FOLDER, help="Read photos from `bintally data shards` instead of their own files.")
@click.option(
    "--memory-gb", type=click.FloatRange(0), default=4.0, show_default=True, help="Photos beyond stay on disk."
)
@click.option(
    "--track", multiple=True, type=click.Choice(["tensorboard", "mlflow"]), help="Show the run there as well."
)
@click.option("--compile", "compiled", is_flag=True, help="Run the network through torch.compile.")
@click.option("--deterministic", is_flag=True, help="Refuse operations whose last bits depend on timing (GPU).")
@click.option("--find-lr", is_flag=True, help="Train nothing: try rates from tiny to huge, and suggest one.")
@click.option("--overwrite", is_flag=True, help="Delete the run that is in the run folder.")
@_JSON
def train(dataset: Path, out: Path, *, as_json: bool, **flags: Any) -> None:  # noqa: ANN401 - click's own values
    """Train a counter on a DATASET folder, and judge it.

    The run folder then holds the weights (model.pt), the figures with 95 % intervals (metrics.json), every answer
    (predictions.npz), the stream of metrics (metrics.jsonl) and a page that shows it all (report.html). Stop it with
    Ctrl-C or SIGTERM, kill it, pull the plug: with --resume it goes on and ends with the same weights.

    \b
    Examples:
      bintally train data/bins --out runs/first --weights hub --counts 0-6+
      bintally train data/bins --out runs/rates --weights hub --find-lr
      bintally train data/bins --out runs/k0 --weights hub --fold 0
      bintally train data/bins --out runs/small --fold 0 --teacher runs/k0 --set distill.weight=0.7
      torchrun --nproc-per-node 4 -m bintally train data/bins --out runs/wide --mirror s3://models/wide --resume
      bintally train data/abid --out runs/abid --counts 1-5 --supervise 0-10+ \\
          --weights mobilenet_v2.pth --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 --stages 160x8,224x8
      bintally train data/bins --out runs/first --resume
    """
    from train.cli_evaluate import print_figures
    from train.job import train as run_training
    from train.loop import StopRequestedError
    from train.progress import RichProgress
    from train.stop import StopOnSignal

    config = _resolve(dataset, flags)
    place = _place(dataset, out, flags)
    if flags["find_lr"]:
        _find_lr(config, place, as_json=as_json)
        return
    try:
        with StopOnSignal() as stop, RichProgress() as progress:
            figures = run_training(config, place, progress=progress, stop=stop)
    except StopRequestedError:
        click.echo(f"bintally: stopped; the checkpoint is in {out}. Go on with --resume.", err=True)
        sys.exit(_STOPPED_EXIT_CODE)
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun, the first process reports
        print_figures(figures, as_json=as_json)


def _place(dataset: Path, out: Path, flags: dict[str, Any]) -> Place:
    from train.place import Place

    weights = flags["weights"]
    plain = (
        *("device", "threads", "workers", "checkpoint_s", "resume", "overwrite", "mirror", "teachers", "shards"),
        *("track", "compiled", "deterministic"),
    )
    return Place(
        dataset=dataset,
        out=out,
        weights=Path(weights) if weights not in (None, "none", "hub") else None,
        memory_bytes=int(flags["memory_gb"] * (1 << 30)),
        **{name: flags[name] for name in plain},
    )


def _find_lr(config: TrainConfig, place: Place, *, as_json: bool) -> None:
    from train.find_lr import find_lr
    from train.progress import RichProgress

    with RichProgress() as progress:
        found = find_lr(config, place, progress=progress)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"suggested rate   {found['suggested']:.2g}   (--lr)")
    click.echo(f"loss falls from  {found['falls_from']:.2g}, rises from {found['rises_from']:.2g}")
    click.echo(f"picture          {found['picture']}")


def _resolve(dataset: Path, flags: dict[str, Any]) -> TrainConfig:
    from train.config import load_config
    from train.folds import fold_splits
    from train.presets import preset

    base = preset(flags["preset"]).settings if flags["preset"] else {}
    splits = () if flags["fold"] is None else fold_splits(dataset, flags["fold"])
    overrides = [
        *zip(("train_split", "eval_split"), splits, strict=False),
        *_named(flags),
        *(setting(text) for text in flags["settings"]),
    ]
    return load_config(flags["config_path"], overrides, base=base)


def _named(flags: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The named flags that were given, as (dotted key, value)."""
    from train.config import parse_counts

    plain = {
        "model": "model.name",
        "size": "model.size",
        "epochs": "epochs",
        "batch_size": "batch_size",
        "lr": "optimizer.lr",
        "seed": "seed",
    }
    for flag, key in plain.items():
        if flags[flag] is not None:
            yield key, flags[flag]
    for flag in ("counts", "supervise"):
        if flags[flag] is not None:
            yield flag, parse_counts(flags[flag])
    for flag in ("mean", "std"):
        if flags[flag] is not None:
            yield f"model.{flag}", _numbers(flags[flag], flag)
    if flags["weights"] is not None:
        yield "model.weights", flags["weights"] if flags["weights"] in ("none", "hub") else "file"
    if flags["stages"] is not None:
        stages = list(_stages(flags["stages"]))
        yield "stages", [{"epoch": epoch, "size": size} for epoch, size, _ in stages]
        if flags["epochs"] is None:
            yield "epochs", stages[-1][0] + stages[-1][2]


def _stages(text: str) -> Iterator[tuple[int, int, int]]:
    """Read "160x8,224x8" as (first epoch, size, epochs)."""
    first = 0
    for part in text.split(","):
        size, _, epochs = part.partition("x")
        if not (size.strip().isdigit() and epochs.strip().isdigit()):
            raise ConfigError("--stages is not a list of SIZExEPOCHS", got=repr(text), expected="160x8,224x8")
        yield first, int(size), int(epochs)
        first += int(epochs)


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as exc:
        raise ConfigError(f"--{flag} is not a list of numbers", got=repr(text), expected="0.5,0.5,0.5") from exc


def setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; the value is JSON, or text when it is no JSON.

    Args:
        text: As typed.

    Returns:
        The dotted key and the value.

    Raises:
        ConfigError: It has another form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError("--set needs KEY=VALUE", got=repr(text), expected="--set optimizer.weight_decay=0.01")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
