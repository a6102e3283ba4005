"""What a rule says when it fires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Record = dict[str, Any]
"""One line of metrics.jsonl."""
Severity = Literal["warn", "stop"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that fired.

    Attributes:
        rule: Its name.
        step: Update at which it fired.
        severity: What the rule asks for by default.
        message: What was seen, against what limit, in one sentence.
    """

    rule: str
    step: int
    severity: Severity
    message: str
