"""`bintally send`: a command to a robot, from a shell."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from bundle.errors import ConfigError
from edge_agent.commands.schema import COMMANDS
from edge_agent.config import MqttSection, TlsSection
from edge_agent.send import fields_from_words, make_sending
from edge_agent.send import send as send_command

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXIT = {"succeeded": 0, "failed": 1, "refused": 3, None: 75}
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("robot", metavar="SITE/ROBOT")
@click.argument("command", type=click.Choice(list(COMMANDS)), metavar="COMMAND")
@click.argument("fields", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option(
    "--host", default=lambda: os.environ.get("BINTALLY_BROKER", "127.0.0.1"), help="Broker; or BINTALLY_BROKER."
)
@click.option("--port", type=click.IntRange(1, 65_535), help="Default: 1883, with --ca-file 8883.")
@click.option("--username", help="For the broker.")
@click.option("--password-file", type=_FILE, help="File that holds the password.")
@click.option("--ca-file", type=_FILE, help="The broker's authority: encrypts the connection.")
@click.option("--cert-file", type=_FILE, help="Your certificate.")
@click.option("--key-file", type=_FILE, help="Its key.")
@click.option("--actor", default=lambda: os.environ.get("USER", "operator"), help="Who asks, for the record.")
@click.option("--why", default="", help="Why, for the record.")
@click.option("--expires", default=600.0, show_default=True, help="Seconds after which the robot must not begin it.")
@click.option(
    "--wait", "wait_s", default=60.0, show_default=True, help="Seconds to wait for the result; 0 sends alone."
)
@click.option("--command-id", help="Ask for the answer to this one again; nothing is begun.")
@click.option("--json", "as_json", is_flag=True, help="Each result as one JSON object per line.")
@click.pass_context
def send(ctx: click.Context, /, robot: str, command: str, fields: Sequence[str], **options: Any) -> None:  # noqa: ANN401 - one parameter per option
    """Send a command to a robot and wait for what becomes of it.

    \b
    COMMAND and its fields (docs/mqtt.md tells more):
      ping                                           is it there, and what runs on it
      capture bin_id=ID [record=N] [frames=N]        look at a bin now
      set threshold=0.9 | log_level=debug | ...      change settings; reset=["threshold"] takes them back
      snapshot [to=store] [camera=NAME]              what the camera sees
      deploy source=URL digest=SHA256                another bundle
      rollback                                       the previous bundle
      recalibrate [labels=@labels.json] [risk=0.1]   fit the bundle to the robot's own visits

    With --command-id and the same words as the first time, a robot that knows the command repeats its last result; any
    other refuses it as expired. It knows a command until five minutes after its expiry or its end.

    A value is text or JSON as the field wants it; @FILE reads JSON from a file. What the robot would refuse is refused
    here, before anything is sent.

    \b
    Exit codes: 0 succeeded, 1 failed, 3 refused, 75 no final result in time (the robot goes on), 78 wrong command.

    \b
    Examples:
      bintally send wh1/r1 ping
      bintally send wh1/r1 capture bin_id=01044 record=8 --why "shelf looks empty"
      bintally send wh1/r1 recalibrate labels=@counts.json --expires 86400 --wait 86400 --json
    """
    site, slash, name = robot.partition("/")
    if not slash or not site or not name or set(robot) & set("+#"):
        raise ConfigError(f"{robot!r} names no robot", expected="SITE/ROBOT, as in its configuration")
    sending = make_sending(
        site,
        name,
        command,
        fields_from_words(command, fields),
        actor=options["actor"],
        why=options["why"],
        expires_in_s=options["expires"],
        command_id=options["command_id"],
    )
    click.echo(f"command_id {sending.command_id}", err=True)

    def told(result: dict[str, Any]) -> None:
        if options["command_id"] and result.get("reason") == "expired":
            click.echo("nothing was begun; a robot that never had this command, or forgot it, says the same", err=True)
        click.echo(
            json.dumps(result) if options["as_json"] else _line(result), err=not options["as_json"] and _runs(result)
        )

    state = send_command(_settings(options), sending, wait_s=options["wait_s"], told=told)
    if state is None and options["wait_s"] > 0:
        click.echo(f"no final result within {options['wait_s']:g} s; ask again with --command-id", err=True)
    ctx.exit(_EXIT[state] if options["wait_s"] > 0 else 0)


def _settings(options: dict[str, Any]) -> MqttSection:
    files = {name: options[name] for name in ("ca_file", "cert_file", "key_file") if options[name]}
    try:
        return MqttSection(
            host=options["host"],
            port=options["port"] or (8883 if files else 1883),
            username=options["username"],
            password_file=options["password_file"],
            tls=TlsSection(**files) if files else None,
        )
    except ValidationError as exc:
        raise ConfigError("the broker's options are not right", got=exc.errors()[0]["msg"]) from exc


def _runs(result: dict[str, Any]) -> bool:
    return result["state"] in ("accepted", "running")


def _line(result: dict[str, Any]) -> str:
    share = "" if result["progress"] is None else f" {result['progress']:.0%}"
    reason = "" if result["reason"] is None else f" ({result['reason']})"
    detail = {name: value for name, value in result["detail"].items() if name != "jpeg_base64"}
    more = f"\n{json.dumps(detail, indent=2)}" if detail and not _runs(result) else ""
    return f"{result['state']}{share}{reason}: {result['words']}{more}".rstrip(": ")
