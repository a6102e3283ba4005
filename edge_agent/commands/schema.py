"""What each command may hold. Strict: no field is guessed, converted, or ignored."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from edge_agent.config import Name  # noqa: TC001 - pydantic evaluates the annotations

MAX_LIFETIME_S = 86_400.0
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_TIME_CHARACTERS = 40


def _only_rfc3339(value: object) -> object:
    if not isinstance(value, str) or len(value) > _TIME_CHARACTERS or not _RFC3339.fullmatch(value):
        raise ValueError("a time is written like 2026-11-21T01:12:39Z")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_only_rfc3339), Field(strict=False)]
CommandId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{7,63}$")]
"""Also names a folder: nothing that a path would interpret."""
Words = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
BinId = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Setting = Literal["threshold", "audit_share", "images_per_hour", "images_per_day", "bytes_per_day", "log_level"]


class Command(BaseModel):
    """What every command has.

    Attributes:
        command_id: Carried out once, however often it is sent.
        issued_at: When it was made.
        expires_at: When it is not wanted any more; at most a day later.
        actor: Who asks, for the record.
        why: In the actor's words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    command_id: CommandId
    issued_at: Time
    expires_at: Time
    actor: Annotated[Words, Field(min_length=1)]
    why: Words = ""

    @model_validator(mode="after")
    def _lives_a_day_at_most(self) -> Command:
        lifetime_s = (self.expires_at - self.issued_at).total_seconds()
        if not 0 < lifetime_s <= MAX_LIFETIME_S:
            raise ValueError("expires_at must lie after issued_at, by a day at most")
        return self

    @property
    def expires_s(self) -> float:
        """Seconds since 1970 UTC."""
        return self.expires_at.timestamp()


class Ping(Command):
    """Say that you are there."""


class Capture(Command):
    """Look at a bin now. `wait_s` bounds how long a first frame may take."""

    bin_id: BinId
    record: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    frames: Annotated[int, Field(ge=1, le=32)] | None = None
    camera: Name | None = None
    wait_s: Annotated[float, Field(gt=0, le=60)] = 10.0


class Overrides(BaseModel):
    """Settings that commands have changed; None is what the configuration says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    threshold: Share | None = None
    audit_share: Share | None = None
    images_per_hour: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    images_per_day: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    bytes_per_day: Annotated[int, Field(ge=0, le=1 << 50)] | None = None
    log_level: Literal["debug", "info", "warning", "error"] | None = None

    def given(self) -> dict[str, Any]:
        """What is set, by name."""
        return self.model_dump(include=set(Overrides.model_fields), exclude_none=True)


class Set(Overrides, Command):
    """Change settings; they outlive restarts. `reset` names those that go back to the configuration's values."""

    reset: Annotated[list[Setting], Field(max_length=6)] = []

    @model_validator(mode="after")
    def _changes_something(self) -> Set:
        given = self.given()
        if not given and not self.reset:
            raise ValueError("set changes nothing: name a setting, or reset one")
        if set(given) & set(self.reset):
            raise ValueError("a setting is either set or reset")
        return self


class Snapshot(Command):
    """Send what a camera sees, to the broker or to where images go."""

    camera: Name | None = None
    to: Literal["mqtt", "store"] = "mqtt"
    max_side: Annotated[int, Field(ge=64, le=1920)] = 640
    wait_s: Annotated[float, Field(gt=0, le=60)] = 10.0


class Deploy(Command):
    """Fetch, verify and run another bundle."""

    source: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[\x21-\x7e]+$")]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    allow_older: bool = False


class Rollback(Command):
    """Go back to the previous bundle."""


class Recalibrate(Command):
    """Fit the active bundle to this robot's own visits; see docs/calibration.md."""

    risk: Annotated[float, Field(ge=0.001, le=0.999)] | None = None
    min_visits: Annotated[int, Field(ge=20, le=10_000)] = 100
    max_visits: Annotated[int, Field(ge=20, le=10_000)] = 500
    collect_s: Annotated[float, Field(ge=0, le=7 * 86_400)] = 3600.0
    watch_visits: Annotated[int, Field(ge=0, le=10_000)] = 100
    watch_s: Annotated[float, Field(ge=0, le=7 * 86_400)] = 3600.0
    ranges: bool = True
    labels: Annotated[dict[BinId, Annotated[int, Field(ge=0, le=9999)]], Field(max_length=2000)] = {}

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Recalibrate:
        if self.max_visits < self.min_visits:
            raise ValueError("max_visits must be at least min_visits")
        return self


COMMANDS: dict[str, type[Command]] = {
    "ping": Ping,
    "capture": Capture,
    "set": Set,
    "snapshot": Snapshot,
    "deploy": Deploy,
    "rollback": Rollback,
    "recalibrate": Recalibrate,
}
