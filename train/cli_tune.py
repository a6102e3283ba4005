"""`bintally tune`: a thin command over `train.tune`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from train.tune import TrialResult

_FOLDER = click.Path(path_type=Path)
_STOPPED_EXIT_CODE = 75
_POLL_S = 0.1


@click.command()
@click.argument("dataset", type=_FOLDER)
@click.option("--out", type=_FOLDER, required=True, help="Folder of the study; the same command again goes on with it.")
@click.option("--search", multiple=True, metavar="KEY=SPACE", help="LOW..HIGH, LOW..HIGH:log or {A,B,C}; repeat it.")
@click.option("--trials", type=click.IntRange(1), default=20, show_default=True, help="Trainings in all.")
@click.option("--metric", default="rmse_posterior_mean", show_default=True, help="Figure that decides.")
@click.option("--config", "config_path", type=_FOLDER, help="TOML file that every trial starts from.")
@click.option("--preset", help="Named starting point; TOML and --set win over it.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Fixed value: --set epochs=12")
@click.option("--weights", type=_FOLDER, help="Weights file, where model.weights is file.")
@click.option("--prune/--no-prune", default=True, show_default=True, help="End trials behind the median.")
@click.option("--storage", help="Database URL for many hosts, postgresql://...; default: a journal in --out.")
@click.option("--parallel", type=click.IntRange(1), default=1, show_default=True, help="Processes on this host.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the search, with the process's number.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--threads", type=click.IntRange(1), help="Threads per process. [default: every core]")
@click.option("--json", "as_json", is_flag=True, help="Print the table as one JSON object on stdout.")
def tune(dataset: Path, out: Path, *, as_json: bool, **flags: Any) -> None:  # noqa: ANN401 - click's own values
    """Search for better training settings on a DATASET; every trial is a run folder that resumes.

    Kill it at any moment and start the same command again: finished trials stay, and the interrupted ones go on from
    their checkpoints. Start it on several hosts with one --storage and a shared --out to search together.

    \b
    Examples:
      bintally tune data/bins --out tune/first --trials 30 --set epochs=8
      bintally tune data/bins --out tune/second --parallel 2 --threads 1 \\
          --search optimizer.lr=1e-5..1e-1:log --search "batch_size={32,64,128,256}" --search epochs=10..20 \\
          --search "model.name={resnet18,mobilenet_v2}" --search optimizer.momentum=0.8..0.99
    """
    from train.loop import StopRequestedError
    from train.place import Place
    from train.progress import RichProgress
    from train.search import parse_space
    from train.stop import StopOnSignal

    try:
        from train.tune import Tuning
        from train.tune import tune as run_tuning
    except ModuleNotFoundError as exc:
        raise ConfigError(f"`bintally tune` needs the package {exc.name}", fix="pip install optuna") from exc
    tuning = Tuning(
        out=out,
        base=_base(flags),
        space=parse_space(flags["search"]),
        **{name: flags[name] for name in ("metric", "trials", "seed", "prune", "storage")},
    )
    place = Place(dataset=dataset, out=out, weights=flags["weights"], device=flags["device"], threads=flags["threads"])
    failed: list[int] = []
    try:
        with StopOnSignal() as stop, RichProgress() as progress, _workers(flags["parallel"] - 1) as others:
            rows = run_tuning(tuning, place, progress=progress, stop=stop)
            if others:
                failed = _join(others, stop)
                # The table as the others left it; and what one of them left unfinished is done here.
                rows = run_tuning(tuning, place, progress=progress, stop=stop)
    except StopRequestedError:
        click.echo(f"bintally: stopped; the study is in {out}. Start the same command to go on.", err=True)
        sys.exit(_STOPPED_EXIT_CODE)
    _print(rows, flags["metric"], as_json=as_json)
    if failed:
        click.echo(f"bintally: {len(failed)} of the other processes failed, exit codes {failed}", err=True)
        sys.exit(failed[0] if failed[0] > 0 else 1)


def _base(flags: dict[str, Any]) -> dict[str, Any]:
    """What every trial starts from: preset, TOML and --set as one flat mapping, checked before the first trial."""
    from train.cli import setting
    from train.config import flat_toml, load_config
    from train.presets import preset

    base: dict[str, Any] = dict(preset(flags["preset"]).settings) if flags["preset"] else {}
    if flags["config_path"] is not None:
        base |= flat_toml(flags["config_path"])
    if flags["weights"] is not None:
        base["model.weights"] = "file"
    base |= dict(setting(text) for text in flags["settings"])
    load_config(None, base=base)
    return base


@contextmanager
def _workers(number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the same command some times more; whatever ends this one asks them to stop at a checkpoint."""
    others: list[subprocess.Popen[bytes]] = []
    try:
        # Sessions of their own: Ctrl-C would reach them beside our SIGTERM, and a second signal does not wait.
        while len(others) < number:
            others.append(subprocess.Popen(_alone(sys.argv), stdout=subprocess.DEVNULL, start_new_session=True))
        yield others
    finally:
        for process in others:
            process.terminate()
        for process in others:
            process.wait()


def _join(others: Sequence[subprocess.Popen[bytes]], stop: Callable[[], bool]) -> list[int]:
    """Wait for the other processes; gives the exit codes of those that failed."""
    from train.loop import StopRequestedError

    while any(process.poll() is None for process in others):
        if stop():
            raise StopRequestedError
        time.sleep(_POLL_S)
    return [process.returncode for process in others if process.returncode]


def _alone(argv: list[str]) -> list[str]:
    """The same command for one process more."""
    kept = []
    skip = False
    for word in argv:
        if skip or word.startswith("--parallel="):
            skip = False
            continue
        skip = word == "--parallel"
        if not skip:
            kept.append(word)
    return [sys.executable, *kept]


def _print(rows: list[TrialResult], metric: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"metric": metric, "trials": [asdict(row) for row in rows]}))
        return
    click.echo(f"{'trial':>5}  {'state':<9}{metric:>22}  epochs  drawn")
    for row in rows:
        value = "" if row.value is None else f"{row.value:.4f}"
        drawn = "  ".join(
            f"{key}={item:.4g}" if isinstance(item, float) else f"{key}={item}" for key, item in row.params.items()
        )
        click.echo(f"{row.number:>5}  {row.state:<9}{value:>22}  {row.epochs:>6}  {drawn}")
