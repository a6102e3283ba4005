"""`bintally demo`: the tour, and `bintally demo render`: rendered bins as a dataset."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from demo.tour import Report

_MAX_PORT = 65_535


def _address(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, int] | None:
    del context, option
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _MAX_PORT:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, for example 127.0.0.1:1883")
    return host.strip("[]"), int(port)


@click.group(invoke_without_command=True)
@click.option("--frames", type=click.IntRange(1, 100_000), help="Visits.  [default: 60, or the whole source]")
@click.option("--forever", is_flag=True, help="Start again at the end, until Ctrl-C.")
@click.option("--seed", type=click.IntRange(0, 999_999_999), default=7, show_default=True, help="Which bins to render.")
@click.option(
    "--source", metavar="PATH|INDEX", help="Own folder of photos, video or camera; then nobody knows the truth."
)
@click.option("--broker", metavar="HOST:PORT", callback=_address, help="Own MQTT broker instead of the embedded one.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Own bundle.  [default: the shipped one]")
@click.option(
    "--pause", "pause_s", type=click.FloatRange(0, 60), default=0.15, show_default=True, help="Seconds per bin."
)
@click.option("--json", "as_json", is_flag=True, help="Make the last line of stdout one JSON object.")
@click.pass_context
def demo(  # noqa: PLR0913 - click hands every option over as an argument
    context: click.Context,
    *,
    frames: int | None,
    forever: bool,
    seed: int,
    source: str | None,
    broker: tuple[str, int] | None,
    bundle: Path | None,
    pause_s: float,
    as_json: bool,
) -> None:
    """Watch the whole system count rendered bins, on this machine alone.

    Starts an MQTT broker and an object store on free loopback ports, renders bins, lets the real agent drive along
    them, and shows what an independent subscriber hears. Ctrl-C ends it with the summary; nothing is left behind.

    \b
    Examples:
      bintally demo
      bintally demo --frames 200 --seed 3 --json | tail -1 | jq .accuracy
      bintally demo --source photos/ --broker 127.0.0.1:1883
      bintally demo render --out data/rendered --count 24000 --seed 1
    """
    if context.invoked_subcommand is not None:
        return
    from demo.tour import SHIPPED_BUNDLE, TourOptions, run_tour

    report = run_tour(
        TourOptions(
            frames=frames,
            forever=forever,
            seed=seed,
            source=source,
            broker=broker,
            bundle=bundle or SHIPPED_BUNDLE,
            pause_s=pause_s,
        )
    )
    if as_json:
        click.echo(json.dumps(asdict(report.summary)))
    else:
        _print_summary(report)
    if report.summary.lost:
        sys.exit(1)


@demo.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the dataset.")
@click.option("--count", type=click.IntRange(min=1), required=True, help="Number of pictures.")
@click.option("--seed", type=click.IntRange(0, 999_999_999), required=True, help="Of the dataset.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as one JSON object.")
def render(out: Path, *, count: int, seed: int, workers: int | None, as_json: bool) -> None:
    """Render a dataset whose labels are true by construction.

    The folder has the layout of the Amazon Bin Image Dataset: bin-images/NAME.jpg and metadata/NAME.json. Run the same
    command again after an interruption, and it writes what is missing.

    \b
    Example:
      bintally demo render --out data/rendered --count 24000 --seed 1
    """
    from demo.dataset import written
    from demo.extra import require
    from demo.table import progress

    require("rich")
    with progress(f"Rendering into {out}", count) as tick:
        for _ in written(out, count=count, seed=seed, workers=workers or os.cpu_count() or 1):
            tick()
    click.echo(json.dumps({"out": str(out), "count": count, "seed": seed}) if as_json else f"{count} bins in {out}")


def _print_summary(report: Report) -> None:
    summary = report.summary
    lines = [
        ("frames seen", f"{summary.frames}"),
        ("counts accepted", f"{summary.accepted}"),
        ("counts received", f"{summary.received}, by an independent subscriber"),
        ("lost", f"{summary.lost}"),
        ("unsure", f"{summary.unsure}"),
        ("images uploaded", f"{summary.uploaded}"),
    ]
    if summary.accuracy is not None:
        lines.append(("accuracy", f"{summary.accuracy:.1%} exactly as rendered"))
    if report.verdicts:
        verdicts = ", ".join(f"{number} {word}" for word, number in sorted(report.verdicts.items()))
        lines.append(("against records", verdicts))
    if summary.p50_ms is not None:
        lines.append(("latency of a visit", f"p50 {summary.p50_ms:.1f} ms, p99 {summary.p99_ms:.1f} ms"))
    if report.stopped:
        lines.append(("", "stopped before the end"))
    click.echo("\n".join(f"{name:<20}{value}" for name, value in lines))
