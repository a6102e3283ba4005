"""The runbook has an entry for every code that the code can say."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import click
import pytest

import bintally
import bundle.errors
from edge_agent.commands.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def sections(repository: Path) -> dict[str, set[str]]:
    """First column of each table, by heading; cells hold one or more codes."""
    found: dict[str, set[str]] = {}
    heading = ""
    for line in (repository / "docs/operations.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("| "):
            found.setdefault(heading, set()).update(re.findall(r"[\w]+", line.split("|")[1]))
    return found


def trees(repository: Path) -> Iterator[ast.AST]:
    for file in (repository / "edge_agent").rglob("*.py"):
        yield ast.parse(file.read_text(encoding="utf-8"))


def said_events(repository: Path) -> set[str]:
    """First arguments of `….event("…", …)`, both branches of a choice, and `EventMessage(event="…")`."""
    found: set[str] = set()
    for tree in trees(repository):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [keyword.value for keyword in node.keywords if keyword.arg == "event"]
            if name == "event" and node.args:
                given.append(node.args[0])
            if name in ("event", "EventMessage"):
                constants = (part for value in given for part in ast.walk(value) if isinstance(part, ast.Constant))
                found |= {part.value for part in constants if isinstance(part.value, str)}
    return found


def exit_codes() -> set[str]:
    families: list[type[bundle.errors.BintallyError]] = [
        bundle.errors.BintallyError,
        *bundle.errors.BintallyError.__subclasses__(),
    ]
    others = (click.UsageError.exit_code, bintally._IO_ERROR, bintally._READER_GONE)
    return {str(code) for code in (*(family.exit_code for family in families), *others)}


def test_operations_has_every_exit_code(sections: dict[str, set[str]]) -> None:
    assert exit_codes() - sections["Exit codes"] == set()


def test_operations_has_every_event_and_so_has_the_description_of_messages(
    repository: Path, sections: dict[str, set[str]]
) -> None:
    events = said_events(repository)
    assert {"camera_lost", "doctor", "dropped", "visit_rejected"} <= events
    assert events - sections["Events"] == set()
    described = (repository / "docs/mqtt.md").read_text(encoding="utf-8")
    assert [event for event in sorted(events) if f"`{event}`" not in described] == []


def test_operations_has_every_reason_of_a_refusal(sections: dict[str, set[str]]) -> None:
    assert {reason.code for reason in Reason} - sections["Refused commands"] == set()


def test_operations_has_every_drop_that_the_description_of_messages_has(
    repository: Path, sections: dict[str, set[str]]
) -> None:
    text = (repository / "docs/mqtt.md").read_text(encoding="utf-8")
    table = text[text.index("| drop | why |") :].split("\n\n", 1)[0]
    drops = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert len(drops) > 15
    assert drops - sections["Drops"] == set()


def test_operations_has_every_reason_of_a_degraded_robot(repository: Path, sections: dict[str, set[str]]) -> None:
    text = (repository / "edge_agent/health/alarms.py").read_text(encoding="utf-8")
    begins = set(re.findall(r'reasons(?:\.append\(| = \[| \+= \[)f?"(\w+)', text))
    assert {"camera", "outbox", "uploads", "machine"} <= begins
    assert begins - sections["Why a robot is degraded"] == set()
