"""Bytes from the network in, a checked command or one refusal out. Pure: no clock, no state, no effect.

Size and depth are bounded before anything is parsed; the work is linear in the size.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from pydantic import ValidationError

from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.commands.schema import COMMANDS, Command

MAX_BYTES = 48 << 10
MAX_DEPTH = 8
_MAX_DIGITS = 18
_MAX_SHOWN = 120
_STRUCTURE = b'"[]{}'
_NOT_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}", re.ASCII)


class _UnusableError(ValueError):
    """JSON that means nothing certain."""


def parse(name: str, payload: bytes, *, retained: bool) -> Command:
    """Check a command.

    Args:
        name: Last level of its topic.
        payload: As it came.
        retained: The broker marked it as retained.

    Returns:
        The command, of the class that `COMMANDS` names.

    Raises:
        CommandError: It is refused; `command_id_of` may still find whose it is.
    """
    if retained:
        raise CommandError(Reason.RETAINED)
    fields = decode(payload)
    kind = COMMANDS.get(name)
    if kind is None:
        raise CommandError(Reason.UNKNOWN_COMMAND, f"{_shown(name)} is none of {', '.join(COMMANDS)}")
    try:
        return kind.model_validate(fields)
    except ValidationError as exc:
        raise CommandError(Reason.INVALID, _first_problem(exc)) from exc


def decode(payload: bytes) -> dict[str, Any]:
    """Read one JSON object, strictly.

    Args:
        payload: As it came.

    Returns:
        Its fields, not yet checked.

    Raises:
        CommandError: It is too large, too deep, or not one plain JSON object.
    """
    if len(payload) > MAX_BYTES:
        raise CommandError(Reason.TOO_LARGE, f"{len(payload)} bytes, at most {MAX_BYTES}")
    if not _is_shallow(payload):
        raise CommandError(Reason.TOO_DEEP)
    try:
        fields = json.loads(
            payload.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_constant=_no_constant,
            parse_int=_small_int,
            parse_float=_finite_float,
        )
    except (ValueError, RecursionError) as exc:
        raise CommandError(Reason.NOT_JSON, _shown(str(exc))) from exc
    if not isinstance(fields, dict):
        raise CommandError(Reason.NOT_JSON, "the payload is not an object")
    return fields


def command_id_of(payload: bytes) -> str | None:
    """Find whose a refused command is, so that its sender hears of it.

    Args:
        payload: As it came.

    Returns:
        Its command_id, if the payload is readable and the id well-formed.
    """
    try:
        found = decode(payload).get("command_id")
    except CommandError:
        return None
    return found if isinstance(found, str) and _ID.fullmatch(found) else None


def _is_shallow(payload: bytes) -> bool:
    """Follow brackets outside of strings, without parsing."""
    depth, in_string = 0, False
    # A backslash outside of a string is no JSON, so wherever it stands, it and what it escapes can go first.
    for byte in payload.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_STRUCTURE):
        if byte == _STRUCTURE[0]:
            in_string = not in_string
        elif not in_string:
            depth += (byte in b"[{") - (byte in b"]}")
            if depth > MAX_DEPTH:
                return False
    return True


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _UnusableError("a key stands twice")
    if None in fields.values():
        raise _UnusableError("a field is null; leave it out instead")
    return fields


def _no_constant(word: str) -> NoReturn:
    raise _UnusableError(f"{word} is no JSON")


def _small_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _UnusableError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _UnusableError("a number is too large")
    return value


def _first_problem(exc: ValidationError) -> str:
    problem = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the command"
    return _shown(f"{where}: {problem['msg'].removeprefix('Value error, ')}")


def _shown(text: str) -> str:
    """Quote what a stranger wrote: ASCII, one short line."""
    plain = text.encode("ascii", "backslashreplace").decode().replace("\n", " ").replace("\r", " ")
    return plain if len(plain) <= _MAX_SHOWN else f"{plain[: _MAX_SHOWN - 3]}..."
