"""Commands as an enemy, a broken client or a bad cable would send them: a seeded stream of names and payloads.

Every payload is wrong in a way that must be refused, and none may be carried out: `mutations` draws one of the ways.
"""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_WRONG: tuple[Any, ...] = (
    None, True, -1, 0.5, 10**30, -(10**40), "", "x" * 3000, "../../etc/passwd", "a/b", "a\x00b", "\ud800", [], {}, [[]],
    {"a": 1}, "1", "NaN", 1e308, "2026-13-45T99:99:99Z", 1_700_000_000, "2026/11/21", "../../../x", "-rf /", "a\nb",
)  # fmt: skip
_REQUIRED: dict[str, dict[str, Any]] = {
    "ping": {},
    "capture": {"bin_id": "A-1"},
    "set": {"threshold": 0.99},
    "snapshot": {},
    "deploy": {"source": "/media/usb/bundle", "digest": "0" * 64},
    "rollback": {},
    "recalibrate": {},
}


def valid(rng: random.Random, number: int, now: datetime) -> tuple[str, dict[str, Any]]:
    """A command that nothing is wrong with."""
    name = rng.choice(list(_REQUIRED))
    times = {"issued_at": now.isoformat(), "expires_at": (now + timedelta(seconds=600)).isoformat()}
    return name, {"command_id": f"hostile-{number:06d}", **times, "actor": "enemy", **_REQUIRED[name]}


def hostile(seed: int, amount: int, now: datetime | None = None) -> Iterator[tuple[str, bytes]]:
    """Draw commands that must all be refused.

    Args:
        seed: The same seed gives the same stream.
        amount: How many.
        now: When the sound parts of them were issued.

    Yields:
        Name of the command and payload.
    """
    rng = random.Random(seed)
    at = now or datetime.now(timezone.utc)
    for number in range(amount):
        name, content = valid(rng, number, at)
        yield rng.choice(_WAYS)(rng, name, content)


def _bytes(content: object) -> bytes:
    return json.dumps(content).encode()


def _noise(rng: random.Random, name: str, _content: dict[str, Any]) -> tuple[str, bytes]:
    return name, rng.randbytes(rng.randrange(0, 400))


def _flipped(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    data = bytearray(_bytes(content))
    for _ in range(rng.randrange(1, 5)):
        data[rng.randrange(len(data))] = rng.randrange(128, 256)  # never UTF-8 among ASCII, or another letter
    return name, bytes(data) + b"\xff"


def _cut(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    data = _bytes(content)
    return name, data[: rng.randrange(len(data))]


def _deep(rng: random.Random, name: str, _content: dict[str, Any]) -> tuple[str, bytes]:
    depth = rng.choice([9, 100, 20_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return name, opening * depth + b"1" + closing * depth


def _large(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    return name, _bytes({**content, "why": "x" * rng.choice([49_152, 60_000])})


def _quotes(rng: random.Random, name: str, _content: dict[str, Any]) -> tuple[str, bytes]:
    return name, rng.choice([b'"', b"\\", b'\\"', b'"\\']) * rng.randrange(1, 20_000)


def _twice(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    key = rng.choice(list(content))
    return name, _bytes(content)[:-1] + b"," + _bytes({key: content[key]})[1:]


def _constant(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    word = rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000])
    return name, _bytes(content)[:-1] + b',"threshold":' + word + b"}"


def _unknown(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    return name, _bytes({**content, rng.choice(["robot", "__class__", "Command_id", "", "\ud800"]): rng.choice(_WRONG)})


def _missing(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    key = rng.choice(["command_id", "issued_at", "expires_at", "actor", *_REQUIRED[name]])
    return name, _bytes({other: value for other, value in content.items() if other != key})


def _wrong(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    key = rng.choice(["command_id", "issued_at", "expires_at"])
    value = rng.choice(_WRONG)
    return name, _bytes({**content, key: value})


def _nobody(rng: random.Random, _name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    return rng.choice(["reboot", "Ping", "ping ", "..", "exec", "x" * 200, "\u202e"]), _bytes(content)


def _untimely(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    issued = datetime.fromisoformat(content["issued_at"]) + timedelta(seconds=rng.choice([-1e5, -9e9, 3600, 1e8]))
    life_s = rng.choice([60, 3600, -60, 0, 1e9])
    times = {"issued_at": issued.isoformat(), "expires_at": (issued + timedelta(seconds=life_s)).isoformat()}
    return name, _bytes({**content, **times})


def _not_an_object(rng: random.Random, name: str, content: dict[str, Any]) -> tuple[str, bytes]:
    return name, _bytes(rng.choice([[content], "ping", 1, None, [], json.dumps(content)]))


_WAYS: tuple[Callable[[random.Random, str, dict[str, Any]], tuple[str, bytes]], ...] = (
    _noise, _flipped, _cut, _deep, _large, _quotes, _twice, _constant, _unknown, _missing, _wrong, _nobody, _untimely,
    _not_an_object,
)  # fmt: skip
