"""`bintally recalibrate`: the job as a process with a clean interface, for people and for the agent that starts it.

With --json every line of stdout is one object: progress (`job_id, state, progress, words`) and at last the result,
which has `"final": true`. The agent hands over what an operator asked by `--request -` on stdin. Exit code 0:
activated; 1: refused, reverted or failed, and the old bundle is active; anything else: the job could not be begun.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from bundle.errors import ConfigError
from calibration.cli import LEAST_PRIORITY

if TYPE_CHECKING:
    from calibration.job.journal import Journal
    from calibration.job.request import Request

_MAX_REQUEST_BYTES = 8 << 20
_ENDS_FIRST = "900"
"""Above a capture process's: the job eats the memory, and goes on where it was."""
FOLDER = click.Path(path_type=Path)


@click.command()
@click.option("--store", required=True, type=FOLDER, help="The robot's bundle store.")
@click.option("--visits", required=True, type=FOLDER, help="Folder of visits; it may still grow.")
@click.option("--job-id", help="Names the job: the same id is carried out once, and goes on where it was killed.")
@click.option("--actor", default=lambda: os.environ.get("USER", "operator"), help="Who asks, for the record.")
@click.option("--why", default="", help="Why, for the record.")
@click.option("--risk", type=click.FloatRange(0.001, 0.999), help="Promise to fit; default: the bundle's own.")
@click.option("--labels", type=click.Path(path_type=Path, dir_okay=False), help='JSON file of counts: {"bin_id": 3}.')
@click.option("--min-visits", default=100, show_default=True, help="Fewer than this and nothing is fitted.")
@click.option("--max-visits", default=500, show_default=True, help="The newest so many are used.")
@click.option("--collect-s", default=0.0, show_default=True, help="How long to wait for visits.")
@click.option("--watch-visits", default=100, show_default=True, help="Visits to watch after the activation.")
@click.option("--watch-s", default=0.0, show_default=True, help="How long to wait for them.")
@click.option("--ranges/--no-ranges", default=True, help="Re-fit INT8 ranges as well.")
@click.option("--request", "request_file", type=click.File("rb"), help="The whole request as JSON; - reads stdin.")
@click.option("--resume", is_flag=True, help="Go on with every job of this store that was killed.")
@click.option("--camera-profile", type=click.Path(path_type=Path, dir_okay=False), help="Rectify photos with it.")
@click.option("--engine", default="auto", show_default=True, help="What runs bundles; see `bintally count --help`.")
@click.option("--background", is_flag=True, help="Give way to everything else on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines for programs.")
@click.pass_context
def recalibrate(ctx: click.Context, /, **options: Any) -> None:  # noqa: ANN401 - one parameter per option
    """Fit the active bundle of a robot to its own visits, and keep the result only if it is no worse.

    States: accepted, collecting, fitting, checking, activating, watching; at the end activated, refused, reverted or
    failed. Killed at any moment, the robot has the old or the new bundle, and the same --job-id goes on.

    \b
    Example:
      bintally recalibrate --store /var/lib/bintally/bundles --visits visits/ --why "new lamps in aisle 4"
    """
    from bundle.camera import read_profile
    from calibration.job.collect import Clock
    from calibration.job.context import Surroundings
    from calibration.job.run import recalibrate as carry_out
    from calibration.job.run import unfinished

    if options["background"]:
        _give_way()
    profile = options["camera_profile"]
    around = Surroundings(
        store=options["store"],
        visits=options["visits"],
        clock=Clock(time.monotonic, time.sleep),
        now=_now,
        emit=_emit_json if options["as_json"] else _emit_text,
        engine=options["engine"],
        profile=None if profile is None else read_profile(profile),
    )
    if options["resume"]:
        journals = [carry_out(around, _request(options, job_id)) for job_id in unfinished(options["store"])]
    else:
        journals = [carry_out(around, _request(options, options["job_id"]))]
    for journal in journals:
        _report(journal, as_json=options["as_json"])
    if any(journal.state != "activated" for journal in journals):
        ctx.exit(1)


def _give_way() -> None:
    """Wait for others where cores are short, and end first where memory is. A service may be forbidden either."""
    with suppress(OSError):
        os.nice(LEAST_PRIORITY)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_ENDS_FIRST, encoding="ascii")


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _request(options: dict[str, Any], job_id: str | None) -> Request:
    from calibration.job.request import Request

    try:
        if options["request_file"] is not None:
            return Request.model_validate_json(options["request_file"].read(_MAX_REQUEST_BYTES))
        asked_at = _now()
        names = ("actor", "why", "risk", "min_visits", "max_visits", "collect_s", "watch_visits", "watch_s", "ranges")
        return Request(
            job_id=job_id or f"recalibration-{asked_at:%Y%m%dT%H%M%S}",
            asked_at=asked_at,
            labels=_labels(options["labels"]),
            **{name: options[name] for name in names},
        )
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the request"
        raise ConfigError(f"the request is not valid at {where}", got=first["msg"], fix="Correct it.") from exc


def _labels(file: Path | None) -> dict[str, int]:
    if file is None:
        return {}
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{file} cannot be read", got=exc, expected='JSON such as {"bin_id": 3}') from exc
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no labels", expected='JSON such as {"bin_id": 3}')
    return content


def _emit_json(line: dict[str, Any]) -> None:
    # Whoever listened may be gone; the job's record stays, and the job goes on.
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the process ends


def _emit_text(line: dict[str, Any]) -> None:
    click.echo(f"{line['progress']:4.0%}  {line['state']:<11}{line['words']}", err=True)


def _report(journal: Journal, *, as_json: bool) -> None:
    from calibration.job.journal import summary

    if as_json:
        _emit_json(summary(journal))
        return
    click.echo(f"{journal.state}: {journal.reason}")
    if journal.before is not None:
        click.echo(f"before  {journal.before.label}")
    if journal.after is not None:
        click.echo(f"{'after ' if journal.state == 'activated' else 'tried '}  {journal.after.label}")
    for words in journal.did:
        click.echo(f"  fitted      {words}")
    for words in journal.did_not:
        click.echo(f"  not fitted  {words}")
    for check in journal.checks:
        click.echo(f"  {'passed' if check.passed else 'FAILED'}      {check.name}: {check.words}")
