"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bundle.errors import BintallyError

Level = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing.

    Attributes:
        subject: The thing.
        level: "FAIL" when the agent cannot do its work, "warn" when it can but something is not as it should be.
        words: What was found.
        fix: What to do about it; empty when all is well.
    """

    subject: str
    level: Level
    words: str
    fix: str = ""


def failure(subject: str, exc: BintallyError) -> Finding:
    """Turn an error into a finding.

    Args:
        subject: What it is about.
        exc: The error.

    Returns:
        A failure with the error's own advice.
    """
    words = str(exc)
    fix = exc.fix or ""
    if fix and words.endswith(fix):
        words = words[: -len(fix)].rstrip(". ")
    return Finding(subject, "FAIL", words, fix or "See the message.")
