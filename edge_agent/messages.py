"""Every JSON message that the agent sends, as types. `docs/mqtt.md` is the text for readers.

Invariants: UTF-8, no NaN or infinity, times are RFC 3339 in UTC, units stand in the names. Building a message has no
effect; sending it is somebody else's.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timezone
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

Share = Annotated[float, Field(ge=0.0, le=1.0)]
State = Literal["online", "degraded", "offline"]
Totals = dict[str, int | float | None]

_MAX_COMMAND_NAME = 64
_FEW_REASONS, _SHORT_REASON = 3, 80
_RANDOM_BITS = 74
_UUID7_VERSION = 0x7 << 76
_UUID_VARIANT = 0x2 << 62


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """Write the message as UTF-8 JSON."""
        return self.model_dump_json().encode()


class IntervalField(_Message):
    """Counts that a visit cannot tell apart."""

    low: int = Field(ge=0)
    high: int = Field(ge=0)
    at_least: bool
    coverage: Share


class CountMessage(_Message):
    """One visit to one bin."""

    event_id: str
    robot: str
    camera: str
    bin_id: str
    count: int = Field(ge=0)
    at_least: bool
    label: str
    confidence: Share
    confident: bool
    posterior: tuple[Share, ...]
    interval: IntervalField | None
    verdict: Literal["match", "short", "over", "unsure"] | None
    record: int | None
    frames: int = Field(ge=1)
    flags: tuple[str, ...]
    bundle: str
    captured_at: AwareDatetime
    latency_ms: float = Field(ge=0)
    is_historical: bool
    clock_synchronised: bool | None = None
    image_key: str | None


class EventMessage(_Message):
    """Something that a person or a program should know of."""

    event_id: str
    robot: str
    event: str
    severity: Literal["info", "warning", "error"]
    subject: str
    problem: str
    at: AwareDatetime
    clock_synchronised: bool | None = None


class StatusMessage(_Message):
    """What a robot is doing; retained. `totals` stands in the last message of a run."""

    robot: str
    state: State
    reasons: tuple[str, ...]
    bundle: str | None
    engine: str | None
    promise: Literal["proven", "inherited", "none"] | None = None
    count_classes: tuple[str, ...]
    version: str
    at: AwareDatetime
    settings: dict[str, JsonValue] = {}
    totals: Totals | None = None

    def wordings(self) -> tuple[bytes, ...]:
        """Write the message whole, without settings and with few reasons, and as the bare state."""
        reasons = tuple(reason[:_SHORT_REASON] for reason in self.reasons[:_FEW_REASONS])
        short = self.model_copy(update={"settings": {}, "reasons": reasons})
        bare = short.model_copy(update={"reasons": (), "count_classes": (), "totals": None})
        return self.to_bytes(), short.to_bytes(), bare.to_bytes()


class StageLatency(_Message):
    """Milliseconds of one stage over the last interval."""

    p50_ms: float | None
    p99_ms: float | None


class TelemetryMessage(_Message):
    """What a robot measures of itself, every few seconds."""

    robot: str
    at: AwareDatetime
    uptime_s: float
    fps: float
    totals: Totals
    queue: dict[str, int | float]
    drops: dict[str, int]
    latency: dict[str, StageLatency]
    disk_free_bytes: int | None
    rss_bytes: int | None
    temperature_c: float | None
    throttled: bool | None
    over_current_events: int | None
    clock_synchronised: bool | None
    clock_max_error_ms: float | None
    mqtt_version: Literal["5", "3.1.1"] | None = None

    def wordings(self) -> tuple[bytes, ...]:
        """Write the message whole, without latencies, and without drops too."""
        short = self.model_copy(update={"latency": {}})
        return self.to_bytes(), short.to_bytes(), short.model_copy(update={"drops": {}}).to_bytes()


class SidecarMessage(_Message):
    """What lies beside an uploaded image, so that it can become training data."""

    image_key: str
    sha256: str
    bytes: int
    why: Literal["unsure", "audit", "mismatch"]
    count: CountMessage


class SnapshotSidecar(_Message):
    """What lies beside an image that somebody asked for."""

    image_key: str
    bytes: int
    why: Literal["snapshot"]
    command_id: str
    camera: str
    captured_at: AwareDatetime


class ResultMessage(_Message):
    """What becomes of a command. `command_id` is None when the command was too broken to have one."""

    event_id: str
    robot: str
    command: str
    command_id: str | None
    state: Literal["accepted", "running", "succeeded", "failed", "refused"]
    reason: str | None
    words: str
    progress: Share | None
    detail: dict[str, JsonValue]
    at: AwareDatetime
    clock_synchronised: bool | None


class Topics:
    """The topics of one robot.

    Args:
        site: Name of the site.
        robot: Name of the robot.
    """

    def __init__(self, site: str, robot: str) -> None:
        self.base = f"bintally/v1/{site}/{robot}"
        self.status = f"{self.base}/status"
        self.count = f"{self.base}/count"
        self.telemetry = f"{self.base}/telemetry"
        self.event = f"{self.base}/event"
        self.commands = f"{self.base}/cmd/+"

    def result(self, command: str) -> str:
        """Topic of what becomes of commands.

        Args:
            command: Its name, as a stranger may have written it.

        Returns:
            The topic.
        """
        return f"{self.base}/cmd/{quote(command[:_MAX_COMMAND_NAME], safe='', errors='replace')}/result"

    def bin(self, bin_id: str) -> str:
        """Topic of the newest count of a bin.

        Args:
            bin_id: Any text; what MQTT would interpret is percent-encoded.

        Returns:
            The topic.
        """
        return f"{self.base}/bin/{quote(bin_id, safe='')}"


def new_event_id(now_s: float) -> str:
    """Make an id that sorts by time and never repeats: a UUID of version 7 (RFC 9562).

    Args:
        now_s: Wall clock, seconds since 1970 UTC.

    Returns:
        36 characters.
    """
    random = secrets.randbits(_RANDOM_BITS)
    number = (int(max(0.0, now_s) * 1e3) & (1 << 48) - 1) << 80
    number |= _UUID7_VERSION | (random >> 62) << 64 | _UUID_VARIANT | random & (1 << 62) - 1
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def utc(now_s: float) -> datetime:
    """Turn seconds since 1970 into an aware time.

    Args:
        now_s: Seconds since 1970 UTC.

    Returns:
        The time in UTC.
    """
    return datetime.fromtimestamp(now_s, timezone.utc)


def as_historical(payload: bytes) -> bytes:
    """Mark a stored count as late.

    Args:
        payload: A count message as JSON.

    Returns:
        The same with is_historical true.
    """
    return json.dumps({**json.loads(payload), "is_historical": True}, separators=(",", ":")).encode()
