"""`bintally calibrate ...`: thin commands over this package."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from calibration.camera_cli import board, camera, moved

if TYPE_CHECKING:
    from calibration.refit import Refitted

FOLDER = click.Path(path_type=Path)
JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
_SHOWN_EVERY = 50
LEAST_PRIORITY = 15
_SHARE = click.FloatRange(0.001, 0.999)


@click.group()
def calibrate() -> None:
    """Make a bundle's numbers fit a place: its confidence, its INT8 ranges, its camera.

    docs/calibration.md explains what each of them promises, and how visits are labelled.
    """


for _command in (camera, moved, board):
    calibrate.add_command(_command)


@calibrate.command()
@click.argument("bundle", type=FOLDER)
@click.argument("visits", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Folder of the new bundle.")
@click.option(
    "--risk", type=_SHARE, default=0.05, show_default=True, help="Share of confident counts that may be wrong."
)
@click.option("--confidence", type=_SHARE, default=0.95, show_default=True, help="How sure the promise must be.")
@click.option(
    "--coverage", type=_SHARE, default=0.9, show_default=True, help="Visits whose count lies in the interval."
)
@click.option("--false-alarm", type=_SHARE, default=0.05, show_default=True, help="Right records called short or over.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write an HTML report with pictures.")
@click.option("--engine", default="auto", show_default=True, help="What runs the bundle; see `bintally count --help`.")
@click.option("--allow-no-promise", is_flag=True, help="Write the bundle even when nothing can be called confident.")
@JSON_OPTION
def confidence(  # noqa: PLR0913 - one parameter per option
    bundle: Path,
    visits: Path,
    *,
    out: Path,
    risk: float,
    confidence: float,
    coverage: float,
    false_alarm: float,
    report: Path | None,
    engine: str,
    allow_no_promise: bool,
    as_json: bool,
) -> None:
    """Fit the confidence of BUNDLE to labelled VISITS, and write the result as a new bundle.

    Refuses when the visits cannot support the promise, and says how many it would take. The visits must not have been
    trained on. The report has a reliability diagram and a risk-coverage curve, measured on visits held out in turn.

    \b
    Example:
      bintally calibrate confidence demo/bundle visits/ --out bundles/site-a --risk 0.1 --report report.html
    """
    from calibration.assess import Wish
    from calibration.refit import Paths, refit_confidence

    refitted = refit_confidence(
        Paths(bundle, visits, out, report),
        Wish(risk, confidence, coverage, false_alarm),
        now=datetime.now(timezone.utc),
        engine=engine,
        allow_no_promise=allow_no_promise,
        progress=_show_progress,
    )
    click.echo(json.dumps(_as_json(refitted)) if as_json else _as_text(refitted))


@calibrate.command()
@click.argument("bundle", type=FOLDER)
@click.argument("visits", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Folder of the new bundle.")
@click.option("--engine", default="auto", show_default=True, help="What runs the bundle; see `bintally count --help`.")
@click.option("--cache", type=FOLDER, help="Keep what was seen, by digest of model and frames; nothing by default.")
@click.option("--background", is_flag=True, help="Give way to everything else on this machine.")
@JSON_OPTION
def ranges(  # noqa: PLR0913 - one parameter per option
    bundle: Path, visits: Path, *, out: Path, engine: str, cache: Path | None, background: bool, as_json: bool
) -> None:
    """Fit the INT8 ranges of BUNDLE to VISITS, and write the result as a new bundle.

    Labels are not needed. The frames are chosen to differ; a third of the visits is held out, and the new models must
    be closer to the reference there than the old ones, and within the bundle's parity budget. The promise of the
    confidence stays, marked unverified: `calibrate confidence` proves it again.

    \b
    Example:
      bintally calibrate ranges demo/bundle visits/ --out bundles/site-a
    """
    from calibration.refit import Paths
    from calibration.refit_ranges import refit_ranges

    if background:
        with suppress(OSError):  # a service may be forbidden to
            os.nice(LEAST_PRIORITY)
    now = datetime.now(timezone.utc)
    found = refit_ranges(Paths(bundle, visits, out), now=now, engine=engine, cache=cache, progress=_show_progress)
    if as_json:
        results = {role: result.model_dump(mode="json") for role, result in found.parity.items()}
        click.echo(json.dumps({"bundle": str(out), "digest": found.bundle.digest, "parity": results}))
    else:
        click.echo(f"{found.words}\nwrote {out} ({found.bundle.label})")


@calibrate.command()
@click.argument("bundle", type=FOLDER)
@click.argument("visits", type=FOLDER)
@click.option("--engine", default="auto", show_default=True, help="What runs the bundle; see `bintally count --help`.")
@JSON_OPTION
def drift(bundle: Path, visits: Path, *, engine: str, as_json: bool) -> None:
    """Tell whether VISITS, in their order, still look like those that BUNDLE was calibrated on.

    Prints one line per event, as the agent would raise it. Exit code 1: the last visits drift.
    """
    from calibration.refit import find_drift

    events, drifting = find_drift(bundle, visits, engine=engine, progress=_show_progress)
    for event in events:
        content = {"event": event.kind, "visit": event.visit, "words": event.words}
        click.echo(json.dumps(content) if as_json else f"visit {event.visit}: {event.kind}, {event.words}")
    if not events and not as_json:
        click.echo("no drift")
    if drifting:
        raise click.exceptions.Exit(1)


def _as_json(refitted: Refitted) -> dict[str, object]:
    from calibration.assess import calibration_error, mismatches

    unseen = refitted.unseen
    return {
        "bundle": None if refitted.bundle is None else str(refitted.bundle.path),
        "digest": None if refitted.bundle is None else refitted.bundle.digest,
        "visits": refitted.labelled,
        "unreadable": refitted.refused,
        "calibration": refitted.calibration.model_dump(mode="json"),
        "unseen": {
            "accuracy": float(unseen.right.mean()),
            "ece_before": refitted.raw_error,
            "ece": calibration_error(unseen.posterior, unseen.truth),
            "confident": float(unseen.confident.mean()),
            "wrong_among_confident": float((~unseen.right)[unseen.confident].mean())
            if unseen.confident.any()
            else None,
            "interval_coverage": float(unseen.inside.mean()) if unseen.width.any() else None,
            "interval_width": float(unseen.width.mean()) if unseen.width.any() else None,
            "false_alarms": mismatches(unseen, 0),
        },
    }


def _as_text(refitted: Refitted) -> str:
    from calibration.assess import calibration_error

    calibration, unseen = refitted.calibration, refitted.unseen
    error = calibration_error(unseen.posterior, unseen.truth)
    lean = "" if calibration.ordinal is None else ", tilt {:+.2f}, curvature {:+.2f}".format(*calibration.ordinal)
    lines = [
        f"temperature {calibration.temperature:.3f}{lean}, calibration error {refitted.raw_error:.3f} -> {error:.3f}"
    ]
    promise = calibration.promise
    if promise is None:
        lines.append("no promise: nothing is called confident")
    else:
        lines.append(
            f"at most {promise.risk:.0%} of the counts with probability {calibration.threshold:.2f} or more are wrong,"
            f" with {promise.confidence:.0%} confidence; {promise.coverage:.0%} of the visits reach it"
        )
    if calibration.interval is not None:
        lines.append(f"intervals hold {unseen.inside.mean():.1%} of the counts at {unseen.width.mean():.2f} on average")
    if refitted.bundle is not None:
        lines.append(f"wrote {refitted.bundle.path} ({refitted.bundle.label})")
    return "\n".join(lines)


def _show_progress(done: int) -> None:
    """Count on stderr, in place, while a person watches; silent for programs."""
    if done % _SHOWN_EVERY == 0 and sys.stderr.isatty():
        click.echo(f"\r{done} visits", nl=False, err=True)
