"""Documents that cannot drift: commands in them exist, files they name exist."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest

import bintally

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DOCUMENTS = (
    "README.md",
    "demo/README.md",
    "docs/operations.md",
    "docs/datasets.md",
    "docs/mqtt.md",
    "docs/engines.md",
    "docs/presets.md",
    "docs/training.md",
    "docs/serve.md",
)
_COMMAND = re.compile(r"^(?: {4}|\$ )(bintally [a-z][^\n#|]*)", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def _existing(repository: Path) -> list[Path]:
    return [repository / name for name in _DOCUMENTS if (repository / name).exists()]


def test_documents_every_relative_link_leads_somewhere(repository: Path) -> None:
    broken = [
        f"{document.name}: {target}"
        for document in [*_existing(repository), *(repository / "docs").rglob("*.md")]
        for target in _LINK.findall(document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert broken == []


def test_readme_names_every_package(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    packages = [path.parent.name for path in repository.glob("*/__init__.py") if path.parent.name != "tests"]
    assert [name for name in packages if f"{name}/" not in text] == []


def test_documents_every_command_is_one_that_the_program_takes(repository: Path) -> None:
    lines = [
        (document.name, line)
        for document in _existing(repository)
        for line in _COMMAND.findall(document.read_text(encoding="utf-8").replace("\\\n", " "))
    ]
    refused = [f"{name}: {line}: {problem}" for name, line in lines if (problem := _refusal(shlex.split(line)[1:]))]
    assert refused == []
    assert len(lines) > 10


def _refusal(words: list[str]) -> str | None:
    """What click says of a command line, without running it."""
    command: click.Command = bintally.cli
    context = click.Context(command, info_name="bintally")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"no verb {words[0]}"
        command, words = found, words[1:]
    try:
        command.make_context(str(command.name), list(words), parent=context)
    except click.ClickException as exc:
        return exc.format_message()
    except click.exceptions.Exit:  # --help and --version end here
        return None
    return None


@pytest.mark.parametrize("verb", bintally._VERBS)
def test_help_of_every_command_shows_no_formatting_mark(verb: str) -> None:
    try:
        command = bintally.cli.get_command(click.Context(bintally.cli), verb)
    except click.ClickException as exc:
        pytest.skip(exc.message)
    assert command is not None
    marked = [path for path, text in _helps(click.Context(command, info_name=verb)) if "\\b" in text or "\b" in text]
    assert marked == []


def _helps(context: click.Context) -> Iterator[tuple[str, str]]:
    """Path and help text of a command and of every command below it."""
    command = context.command
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _helps(click.Context(child, info_name=name, parent=context))
