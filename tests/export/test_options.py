"""What a person may ask of an export, judged before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from bundle.errors import ConfigError
from export.cli import export
from export.options import BUDGET, Options

if TYPE_CHECKING:
    from pathlib import Path

_GOOD = {"name": "bins", "version": "1.0.0", "licence": "Apache-2.0", "data": "our own bins"}


def _options(words: dict[str, str]) -> Options:
    return Options(words["name"], words["version"], words["licence"], words["data"], 0.05, BUDGET)


@pytest.mark.parametrize(
    ("key", "wrong", "expected"),
    [
        ("name", "My Bins", "1 to 64 of a-z"),
        ("name", "", "1 to 64 of a-z"),
        ("version", "1.0", "a semantic version"),
        ("version", "v1.0.0", "a semantic version"),
        ("licence", "", "words"),
        ("licence", "  ", "words"),
        ("data", "", "words"),
    ],
)
def test_options_that_no_manifest_may_hold_are_refused(key: str, wrong: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"--{key} does not fit .* expected {expected}.*another --{key}") as caught:
        _options(_GOOD | {key: wrong})
    assert f"got {wrong!r}" in str(caught.value)


@pytest.mark.parametrize("version", ["0.0.1", "1.2.3-rc.1", "1.2.3+bins"])
def test_options_good_words_are_taken(version: str) -> None:
    assert _options(_GOOD | {"version": version}).version == version


def test_export_command_wrong_version_is_refused_before_the_run_is_read(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "none"), "--out", str(tmp_path / "b"), "--licence", "MIT", "--data", "bins"]
    done = CliRunner().invoke(export, [*arguments, "--version", "one"])
    assert isinstance(done.exception, ConfigError)
    assert "--version" in str(done.exception)
