"""The one command: `bintally VERB ...`.

Each verb imports only the package that it needs, so that a robot without torch has the same command as the training
machine. Errors that bintally raises on purpose end here: one message on stderr, and the exit code of their family.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from bundle.errors import BintallyError
from bundle.version import VERSION

# verb: (module, attribute, extra that installs what the module imports, help line). No module is imported for --help.
_VERBS = {
    "demo": ("demo.cli", "demo", "demo", "Watch the whole system count rendered bins, on this machine alone."),
    "count": ("bundle.cli", "count", "", "Count the items on photos with a bundle."),
    "data": ("train.data.cli", "data", "train", "Make a dataset from photos: import, split, report."),
    "train": ("train.cli", "train", "train", "Train a counter on a dataset."),
    "tune": ("train.cli_tune", "tune", "tune", "Search for better training settings, resumable."),
    "ensemble": (
        "train.cli_ensemble",
        "ensemble",
        "train",
        "Put trained runs together: one that answers with their mean.",
    ),
    "evaluate": ("train.cli_evaluate", "evaluate", "train", "Measure a run or a bundle on a dataset."),
    "export": ("export.cli", "export", "export", "Turn a run into a bundle that a robot can execute."),
    "bundle": ("bundle.cli", "bundle", "", "Inspect, verify, install and roll back bundles."),
    "engine": ("bundle.engines.cli", "engine", "", "Measure and check what runs a bundle on this machine."),
    "calibrate": ("calibration.cli", "calibrate", "", "Make a bundle's numbers fit a place: confidence, camera."),
    "recalibrate": ("calibration.job.cli", "recalibrate", "", "Fit a robot's active bundle to its own visits."),
    "serve": ("serve.cli", "serve", "serve", "Count photos over HTTP, for those who have no robot."),
    "agent": ("edge_agent.cli", "agent", "", "Run the agent on a robot, or check its configuration."),
    "send": ("edge_agent.send_cli", "send", "", "Send a command to a robot and wait for what becomes of it."),
}


_IO_ERROR, _READER_GONE = 74, 141
"""EX_IOERR; and what a shell reports of a program that SIGPIPE ended."""


class _LazyGroup(click.Group):
    """A click group that imports a verb's package when that verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, attribute, extra, _ = _VERBS[cmd_name]
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as exc:
            if ctx.resilient_parsing:  # a shell asks what could follow: nothing, without the extra
                return None
            if not extra or (exc.name or "").split(".")[0] in ("train", "export", "demo"):
                raise
            raise click.ClickException(
                f"`bintally {cmd_name}` needs the package {exc.name}. "
                f"Install it from the project's folder with: pip install '.[{extra}]'"
            ) from exc
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        verbs = [CompletionItem(verb, help=entry[3]) for verb, entry in _VERBS.items() if verb.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _VERBS and not name.startswith("-") and not ctx.resilient_parsing:
            close = _closest(name)
            hint = f" Did you mean {close}?" if close else ""
            ctx.fail(f"No such verb {name!r}.{hint} `bintally --help` lists them.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, entry[3]) for verb, entry in _VERBS.items()])


def _closest(name: str) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(name, _VERBS, n=1)), None)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="bintally")
def cli() -> None:
    """Count the items in warehouse bins, on the robot, and say how sure the count is.

    \b
    From photos to a counting robot:
      bintally data import photos/ --out data/bins     a dataset, split without leaks
      bintally train data/bins --out runs/first        a trained run
      bintally export runs/first --out bundles/first   a bundle, INT8, proven equal
      bintally agent run --config agent.toml           counts to MQTT, unsure photos to S3

    Shell completion: eval "$(_BINTALLY_COMPLETE=bash_source bintally)", likewise zsh_source and fish_source.
    """


def main() -> None:
    """Entry point: run a verb, and turn errors that a person can mend into one message and an exit code."""
    try:
        cli(prog_name="bintally")
    except BintallyError as exc:
        _fail(str(exc), exc.exit_code)
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_READER_GONE)
    except OSError as exc:
        place = f"{exc.filename}: " if exc.filename else ""
        _fail(f"{place}{exc.strerror or exc}. Check the path, its rights and the room on its disk.", _IO_ERROR)


def _fail(message: str, exit_code: int) -> NoReturn:
    click.echo(f"bintally: {message}", err=True)
    if "--json" in sys.argv:
        click.echo(json.dumps({"error": message, "exit_code": exit_code}))
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
