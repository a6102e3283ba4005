"""`bintally agent ...`: run the agent, or check its configuration."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_agent.config_file import load_config

if TYPE_CHECKING:
    from types import FrameType

    from edge_agent.agent import Agent
    from edge_agent.messages import Totals
    from edge_agent.outbox.rows import Entry
    from edge_agent.probation import Probation

_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    required=True,
    help="The agent's TOML file; deploy/agent.example.toml explains every key.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def agent() -> None:
    """Run the agent on a robot, or check its configuration.

    \b
    The agent turns camera frames into counts and never loses one:
      camera -> count -> outbox on disk -> MQTT, and unsure images to S3 or a folder

    \b
    Examples:
      bintally agent check-config --config agent.toml
      bintally agent doctor --config agent.toml
      bintally agent run --config agent.toml
      mosquitto_sub -t 'bintally/v1/+/+/count'         see the counts arrive
    """


@agent.command()
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Each accepted count, then the totals, as JSON lines on stdout.")
@click.option("--log-json", is_flag=True, help="Logs on stderr as JSON lines.")
def run(config_file: Path, *, as_json: bool, log_json: bool) -> None:
    """Count until the source ends, or until SIGTERM or Ctrl-C.

    A source that ends (a folder, a video) is followed by delivery: the command returns when every count has reached
    the broker and every image its store, or after stop.drain_timeout_s. What could not be delivered stays in the
    outbox and goes out at the next start. A second signal ends the process at once; accepted counts stay safe.

    \b
    Exit codes: 0 done, 1 hung for over a minute, 65 photos or folder unusable, 66 bundle damaged, 70 engine failed,
    75 disk broken, 78 configuration wrong.

    \b
    Example:
      bintally agent run --config agent.toml --json | tail -n 1
    """
    from edge_agent.assemble import assemble
    from edge_agent.health.guard import guarded
    from edge_agent.health.logs import set_up_logs
    from edge_agent.probation import Probation

    faulthandler.enable()  # a watchdog's SIGABRT leaves in the log where each thread was
    config = load_config(config_file).config
    set_up_logs(config.log.level, json_lines=log_json or config.log.json_lines)
    probation = Probation(config.bundle.path)
    signals = _Signals(probation)
    ready = assemble(config, on_accepted=_print_count if as_json else None, probation=probation)
    signals.stop(ready)
    with guarded(lambda: ready.late):
        totals = ready.run()
    _print_totals(totals, as_json=as_json)


def _print_count(entry: Entry) -> None:
    _print(entry.payload.decode())


def _print(line: str) -> None:
    """Print a line. A reader that goes away (`| head -n 1`) ends the printing, never the counting."""
    try:
        click.echo(line)
    except OSError as exc:
        logging.getLogger(__name__).warning("stdout takes no more lines (%s); counting goes on", exc.strerror)
        # All that is printed later, the interpreter's own flush at its end included, goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _print_totals(totals: Totals, *, as_json: bool) -> None:
    if as_json:
        _print(json.dumps({"totals": totals}))
        return
    width = max(map(len, totals))
    for name, value in totals.items():
        _print(f"{name:<{width}}  {'-' if value is None else value}")


class _Signals:
    """The first signal asks for a clean stop, also while a bundle is loaded; the second one ends the process.

    Loading can take longer than systemd or a person waits (TensorRT builds for minutes, in a child process). Whoever
    ends it then has asked first, so it is not held against the bundle.

    Args:
        probation: Of the bundle that is loaded.
    """

    def __init__(self, probation: Probation) -> None:
        self._probation = probation
        self._agent: Agent | None = None
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def stop(self, ready: Agent) -> None:
        """Pass them on to an agent."""
        self._agent = ready
        if self._asked:
            ready.request_stop()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._asked:
            os._exit(128 + number)
        self._asked = True
        if self._agent is None:
            self._probation.acquit()
        else:
            self._agent.request_stop()


@agent.command("check-config")
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check_config(config_file: Path, *, as_json: bool) -> None:
    """Check a configuration and everything that it names, and print each value with its origin.

    Nothing is started and nothing is sent; the exit code is 0 when the agent could start. A systemd unit can run it
    before the agent (ExecStartPre).

    \b
    Example:
      bintally agent check-config --config agent.toml
    """
    from edge_agent.check import check_references

    loaded = load_config(config_file)
    notes = check_references(loaded.config)
    if as_json:
        settings = [{"key": s.key, "value": s.value, "origin": s.origin} for s in loaded.settings]
        click.echo(json.dumps({"file": str(loaded.file), "ok": True, "settings": settings, "found": notes}))
        return
    width = max(len(setting.key) for setting in loaded.settings)
    for setting in loaded.settings:
        click.echo(f"{setting.key:<{width}}  {'-' if setting.value is None else setting.value}  ({setting.origin})")
    for subject, note in notes.items():
        click.echo(f"{subject}: {note}")


@agent.command()
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="One JSON object per finding on stdout.")
def doctor(config_file: Path, *, as_json: bool) -> None:
    """Examine the robot: cameras, permissions, bundle, engine, broker, bucket, clock, certificates, service.

    One line each, with what to do. On a robot use bintally-doctor. It publishes one event, "doctor", and stores
    one small object, doctor.txt; both are harmless beside a running agent.

    \b
    Exit codes: 0 the agent can work (warnings included), 1 something failed, 78 configuration wrong.

    \b
    Example:
      sudo bintally-doctor     (as the installed service runs, secrets and sandbox included)
    """
    from dataclasses import asdict

    from edge_agent.doctor.examine import examine

    failed = False
    for finding in examine(load_config(config_file).config):
        failed = failed or finding.level == "FAIL"
        if as_json:
            click.echo(json.dumps(asdict(finding)))
        else:
            fix = f"  -> {finding.fix}" if finding.fix else ""
            click.echo(f"{finding.level:<5} {finding.subject:<22} {finding.words}{fix}")
    if failed:
        sys.exit(1)
