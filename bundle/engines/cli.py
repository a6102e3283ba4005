"""`bintally engine ...`: what runs on this machine, how fast, and whether it is right."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bundle.engines.bench import BenchPlan, bench_engines, works
from bundle.engines.choose import ENGINES, open_engine, usable_engines
from bundle.engines.machine import describe_machine
from bundle.engines.report import machine_lines, table
from bundle.errors import EngineError
from bundle.verify import load_bundle

_FOLDER = click.Path(path_type=Path)
_NAMED = tuple(name for name in ENGINES if name != "auto")
_THREADS = click.option("--threads", type=click.IntRange(1, 64), help="Threads of the runtime.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


@click.group()
def engine() -> None:
    """See what runs a bundle on this machine, how fast, and whether it is right.

    \b
    Examples:
      bintally engine selftest demo/bundle     everything at once, as a report to send
      bintally engine bench demo/bundle        how fast, each engine in turn
      bintally engine build bundles/first      TensorRT engines for this Jetson, once

    `--engine auto`, the default everywhere, takes the fastest engine that computes the golden frames; `auto` and the
    engines that can be named instead are explained in docs/engines.md.
    """


@engine.command()
@click.argument("bundle", type=_FOLDER)
@click.option("--engine", "engines", type=click.Choice(_NAMED), multiple=True, help="Only this one (repeatable).")
@_THREADS
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=2.0, show_default=True, help="Per measurement.")
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, 64),
    multiple=True,
    help="Frames per call (repeatable) [default: 1, 4].",
)
@_JSON
def bench(
    bundle: Path,
    engines: tuple[str, ...],
    *,
    threads: int | None,
    seconds: float,
    batches: tuple[int, ...],
    as_json: bool,
) -> None:
    """Measure latency, throughput, memory and start of every engine that BUNDLE has on this machine.

    Each engine runs in a process of its own, one after the other. "opens" is the first start with the runtime's import
    (and the build, if no built engine lies in the cache), "again" the next one, "built" what TensorRT took to build.
    "RSS" is how far the process grew at its peak. "golden" is the largest logit error on the golden frames.

    \b
    Examples:
      bintally engine bench demo/bundle
      bintally engine bench demo/bundle --engine openvino --threads 2 --batch 1 --batch 8 --json
    """
    names = engines or usable_engines(load_bundle(bundle))
    plan = BenchPlan(threads=threads, seconds=seconds, batches=batches or (1, 4))
    rows = bench_engines(bundle, names, plan, say=_say)
    machine = describe_machine()
    click.echo(
        json.dumps({"machine": machine, "threads": threads, "engines": rows}, allow_nan=False)
        if as_json
        else f"{machine_lines(machine)}\n\n{table(rows)}"
    )
    _require(rows)


@engine.command()
@click.argument("bundle", type=_FOLDER)
@_JSON
def build(bundle: Path, *, as_json: bool) -> None:
    """Build BUNDLE's TensorRT engines now, so that the agent starts in seconds.

    Built engines are kept in $BINTALLY_CACHE, in systemd's CACHE_DIRECTORY or in ~/.cache/bintally, and are found again
    by the agent as long as model, TensorRT, device and driver stay the same.

    \b
    Example:
      bintally engine build bundles/first
    """
    plan = BenchPlan(seconds=0.2, batches=(1,))
    rows = bench_engines(bundle, [name for name in _NAMED if name.startswith("tensorrt")], plan, say=_say)
    click.echo(
        json.dumps({"machine": describe_machine(), "engines": rows}, allow_nan=False) if as_json else table(rows)
    )
    _require(rows)


@engine.command()
@click.argument("bundle", type=_FOLDER)
@_THREADS
@_JSON
def selftest(bundle: Path, *, threads: int | None, as_json: bool) -> None:
    """Build, time and check everything that could run BUNDLE here, and print a report to attach to a bug.

    Engines that do not run here are listed with the reason. The last line says which engine `auto` takes, and why.
    Exit code 70: nothing on this machine computes what the bundle's golden frames say.

    \b
    Example:
      bintally engine selftest demo/bundle | tee report.txt
    """
    found = load_bundle(bundle)
    rows = bench_engines(bundle, _NAMED, BenchPlan(threads=threads, seconds=1.0), say=_say)
    machine = describe_machine()
    chosen = _chosen(bundle, threads) if works(rows) else "none"
    if as_json:
        report = {"bundle": found.label, "machine": machine, "threads": threads, "engines": rows, "auto": chosen}
        click.echo(json.dumps(report, allow_nan=False))
    else:
        click.echo(f"bundle        {found.label}\n{machine_lines(machine)}\n\n{table(rows)}\n\nauto: {chosen}")
    _require(rows)


def _chosen(bundle: Path, threads: int | None) -> str:
    with open_engine(load_bundle(bundle), threads=threads) as chosen:
        return chosen.reason


def _require(rows: list[dict[str, object]]) -> None:
    if not works(rows):
        raise EngineError("no engine runs this bundle on this machine", fix="Each reason is named above.")


def _say(words: str) -> None:
    click.echo(words, err=True)
