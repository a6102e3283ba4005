"""Sending a command from a shell: publish it, wait for what becomes of it."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bundle.errors import ConfigError, DeliveryError
from edge_agent.commands.schema import COMMANDS, MAX_LIFETIME_S, Command
from edge_agent.delivery.link import VERSIONS, HandshakeError, VersionRefusedError
from edge_agent.delivery.mqtt import PahoLink
from edge_agent.messages import Topics
from edge_agent.threads import Waker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.config import MqttSection

FINAL = frozenset({"succeeded", "failed", "refused"})
_MAX_FILE_BYTES = 1 << 20
_ACK_S = 10.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""When a repeat was issued: expired by every clock, so that a robot which does not know the command does nothing."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A command that is ready to go.

    Attributes:
        topics: Of the robot.
        name: Of the command.
        command_id: Names it for ever.
        payload: JSON.
        expiry_s: How long the broker keeps it.
    """

    topics: Topics
    name: str
    command_id: str
    payload: bytes
    expiry_s: int


def fields_from_words(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Read FIELD=VALUE as the command's fields want it: text as text, everything else as JSON, @FILE as a JSON file.

    Args:
        name: Of the command.
        words: For example "bin_id=01044".

    Returns:
        The fields.

    Raises:
        ConfigError: A word is no FIELD=VALUE, the command has no such field, or a field is given twice.
    """
    known = COMMANDS[name].model_json_schema()["properties"]
    properties = {key: kind for key, kind in known.items() if key not in Command.model_fields}
    fields: dict[str, Any] = {}
    for key, value in (_field(name, properties, word) for word in words):
        if key in fields:
            raise ConfigError(f"{key} is given twice", expected="each FIELD once")
        fields[key] = value
    return fields


def _field(name: str, properties: dict[str, Any], word: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or key not in properties:
        expected = f"FIELD=VALUE with {', '.join(sorted(properties)) or 'no field'}"
        fix = "Use --actor, --why, --expires or --command-id." if key in Command.model_fields else None
        raise ConfigError(f"{word!r} is no field of {name}", expected=expected, fix=fix)
    kinds = json.dumps(properties[key])
    if '"type": "string"' in kinds and not any(f'"type": "{kind}"' in kinds for kind in ("array", "object", "number")):
        return key, text
    try:
        data = Path(text[1:]).read_bytes()[:_MAX_FILE_BYTES] if text.startswith("@") else text
        return key, json.loads(data)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"{word!r} is no value for {key}", got=exc, expected='JSON, such as 5, true or ["a"]'
        ) from exc


def make_sending(  # noqa: PLR0913 - what a command is made of
    site: str,
    robot: str,
    name: str,
    fields: dict[str, Any],
    *,
    actor: str,
    why: str,
    expires_in_s: float,
    command_id: str | None = None,
) -> Sending:
    """Make a command, and check it as the robot will.

    Args:
        site: Of the robot.
        robot: Its name.
        name: Of the command.
        fields: Those of this command.
        actor: Who asks.
        why: In the actor's words.
        expires_in_s: How long it is wanted, at most a day.
        command_id: Of a command that was sent, to hear its result again; nothing is begun. None makes a new one.

    Returns:
        The command.

    Raises:
        ConfigError: The robot would refuse it.
    """
    if not 0 < expires_in_s <= MAX_LIFETIME_S:
        raise ConfigError("--expires is out of bounds", got=expires_in_s, expected="seconds above 0, at most 86400")
    now = datetime.now(timezone.utc)
    chosen = command_id or f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"
    issued, lifetime_s = (now, expires_in_s) if command_id is None else (_LONG_AGO, 1.0)
    content = {
        "command_id": chosen,
        "issued_at": issued.isoformat(),
        "expires_at": (issued + timedelta(seconds=lifetime_s)).isoformat(),
        "actor": actor,
        **({"why": why} if why else {}),
        **fields,
    }
    try:
        COMMANDS[name].model_validate(content)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"])) or name
        raise ConfigError(
            f"{name} is not right at {where}", got=first["msg"], fix=f"See bintally send --help {name}."
        ) from exc
    return Sending(Topics(site, robot), name, chosen, json.dumps(content).encode(), max(1, int(expires_in_s)))


def send(
    settings: MqttSection, sending: Sending, *, wait_s: float, told: Callable[[dict[str, Any]], None]
) -> str | None:
    """Publish a command and follow its results.

    Args:
        settings: Of the broker.
        sending: The command.
        wait_s: How long to wait for the final result; 0 waits until the broker has the command.
        told: Called with each result.

    Returns:
        The final state; None when none came in time.

    Raises:
        ConfigError: The time to wait is none.
        DeliveryError: The broker cannot be reached, refuses the command, or does not confirm it (with `wait_s` 0).
    """
    if not wait_s >= 0:
        raise ConfigError("--wait is out of bounds", got=wait_s, expected="0 or more seconds")
    link, waker = _connect(settings, f"bintally-send-{secrets.token_hex(6)}"), Waker()
    try:
        link.subscribe(sending.topics.result(sending.name))
        topic = f"{sending.topics.base}/cmd/{sending.name}"
        mid = link.publish(topic, sending.payload, qos=1, retain=False, expiry_s=sending.expiry_s)
        until_s = time.monotonic() + (wait_s or _ACK_S)
        while (left_s := until_s - time.monotonic()) > 0:
            for ack in link.wait(min(left_s, 0.5), waker):
                if ack.mid == mid and ack.refusal is not None:
                    raise DeliveryError("the broker refuses the command", got=ack.refusal)
                if ack.mid == mid and not wait_s:
                    return None
            state = _take(link, sending, told)
            if state in FINAL:
                return state
        if not wait_s:
            raise DeliveryError("the broker does not confirm the command", got=f"nothing within {_ACK_S:g} s")
        return None
    finally:
        link.close()
        waker.close()


def _take(link: PahoLink, sending: Sending, told: Callable[[dict[str, Any]], None]) -> str | None:
    state = None
    for delivery in link.received():
        link.acknowledge(delivery.mid)
        result = json.loads(delivery.payload)
        if result.get("command_id") == sending.command_id:
            told(result)
            state = str(result.get("state"))
            if state in FINAL:
                return state
    if link.subscription_refused is not None:
        raise DeliveryError("the broker does not let you hear results", got=link.subscription_refused)
    return state


def _connect(settings: MqttSection, client_id: str) -> PahoLink:
    try:
        return PahoLink(settings, client_id=client_id, version=VERSIONS[0], will=None)
    except (VersionRefusedError, HandshakeError):
        return PahoLink(settings, client_id=client_id, version=VERSIONS[1], will=None)
