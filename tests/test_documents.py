"""Documents that cannot drift: commands in them exist, files they name exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

_DOCUMENTS = (
    "README.md",
    "demo/README.md",
    "docs/operations.md",
    "docs/datasets.md",
    "docs/mqtt.md",
    "docs/engines.md",
)
_COMMAND = re.compile(r"^(?: {4}|\$ )(bintally [a-z][^\n#|]*)", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def _existing(repository: Path) -> list[Path]:
    return [repository / name for name in _DOCUMENTS if (repository / name).exists()]


def _verbs(words: list[str]) -> list[str]:
    """Words of a command that name verbs: those before the first flag, path or placeholder."""
    verbs = []
    for word in words[1:]:
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        verbs.append(word)
    return verbs


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


@pytest.mark.slow
def test_documents_every_command_and_flag_exists(repository: Path) -> None:
    known: dict[tuple[str, ...], str] = {}
    unknown = []
    for document in _existing(repository):
        for line in _COMMAND.findall(document.read_text(encoding="utf-8").replace("\\\n", " ")):
            words = shlex.split(line)
            help_text = _help(tuple(_verbs(words)), known, repository)
            flags = [word.split("=")[0] for word in words if word.startswith("--")]
            unknown += [f"{document.name}: {line}: {flag}" for flag in flags if flag not in help_text]
    assert unknown == []
    assert len(known) > 5


def _help(verbs: tuple[str, ...], known: dict[tuple[str, ...], str], repository: Path) -> str:
    """Help of the deepest command that the words name; the last words may be arguments."""
    if verbs not in known:
        command = [sys.executable, "-m", "bintally", *verbs, "--help"]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            known[verbs] = done.stdout
        else:
            assert len(verbs) > 1, f"`bintally {' '.join(verbs)}` does not exist: {done.stderr}"
            known[verbs] = _help(verbs[:-1], known, repository)
    return known[verbs]
