"""The unit as systemd itself reads it, and the unit against the code that it starts."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import click
import pytest

import bundle.errors
from edge_agent.cli import agent
from edge_agent.config import StopSection
from edge_agent.lifecycle import CLOSE_S, GOODBYE_S

ANALYZE = shutil.which("systemd-analyze")
_SYSTEM_UNITS = Path("/usr/lib/systemd/system")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze")


@pytest.fixture
def units(repository: Path) -> Path:
    return repository / "deploy" / "systemd"


def values(unit: Path, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


def install(units: Path, root: Path, drop_ins: list[str]) -> Path:
    """A machine of our own under `root`, with systemd's units, ours, and the program that ours starts."""
    target = root / "etc/systemd/system"
    (target / "bintally-agent.service.d").mkdir(parents=True)
    shutil.copytree(_SYSTEM_UNITS, root / "usr/lib/systemd/system", symlinks=True)
    unit = Path(shutil.copy(units / "bintally-agent.service", target))
    for name in drop_ins:
        shutil.copy(units / name, target / "bintally-agent.service.d")
    program = root / values(unit, "ExecStart")[0].split()[0].lstrip("/")
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n", encoding="ascii")
    program.chmod(0o755)
    return unit


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, check=False, timeout=60)


@needs_systemd
@pytest.mark.parametrize("drop_ins", [[], ["jetson.conf"], ["nvidia.conf"]], ids=["alone", "jetson", "nvidia"])
def test_unit_verifies_without_a_word_and_is_exposed_little(units: Path, tmp_path: Path, drop_ins: list[str]) -> None:
    unit = install(units, tmp_path, drop_ins)
    verified = analyze("verify", f"--root={tmp_path}", unit.name)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    assert exposure(unit) <= 2.0


def exposure(unit: Path) -> float:
    judged = analyze("security", "--offline=true", str(unit))
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged.stdout)
    assert level is not None, judged.stderr
    return float(level[1])


@needs_systemd
def test_exposure_is_what_the_page_says_also_with_its_override_for_the_clock(
    repository: Path, units: Path, tmp_path: Path
) -> None:
    page = (repository / "docs/operations.md").read_text(encoding="utf-8")
    said = re.search(r"security bintally-agent` \(([\d.]+) of 10\)", page)
    override = re.search(r"\(exposure then ([\d.]+)\):\n\n((?: {4}.+\n)+)", page)
    assert said is not None
    assert override is not None
    unit = install(units, tmp_path, [])
    assert exposure(unit) == float(said[1])
    unit.write_text(unit.read_text(encoding="utf-8") + textwrap.dedent(override[2]), encoding="utf-8")
    assert exposure(unit) == float(override[1])


@needs_systemd
def test_unit_with_a_misspelt_key_would_be_noticed(units: Path, tmp_path: Path) -> None:
    unit = install(units, tmp_path, [])
    unit.write_text(unit.read_text(encoding="utf-8").replace("ProtectSystem=", "ProtectSistem="), encoding="utf-8")
    assert "ProtectSistem" in analyze("verify", f"--root={tmp_path}", unit.name).stderr


@needs_systemd
@pytest.mark.parametrize("file", ["sysusers.conf", "tmpfiles.conf"])
def test_users_and_folders_are_what_their_tools_accept(units: Path, tmp_path: Path, file: str) -> None:
    tool = shutil.which(f"systemd-{file.removesuffix('.conf')}")
    if tool is None:
        pytest.skip(f"no systemd-{file.removesuffix('.conf')}")
    text = (units / file).read_text(encoding="utf-8").replace("root bintally", "root root")
    copy = tmp_path / file
    copy.write_text(text.replace("bintally bintally", "root root"), encoding="utf-8")
    done = subprocess.run(  # sysusers tells on stderr what it would do; a wrong line ends it with 1
        [tool, f"--root={tmp_path}", *(["--create"] if file == "tmpfiles.conf" else ["--dry-run"]), str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "line" not in done.stderr
    assert file != "tmpfiles.conf" or (tmp_path / "etc/bintally/credentials").stat().st_mode & 0o777 == 0o700


def test_unit_starts_a_command_that_exists(units: Path) -> None:
    words = values(units / "bintally-agent.service", "ExecStart")[0].split()
    assert words[1:3] == ["agent", "run"]
    command = agent.commands["run"]
    context = command.make_context("run", words[3:])
    assert context.params["config_file"] == Path("/etc/bintally/agent.toml")
    assert isinstance(command, click.Command)


def test_unit_does_not_restart_where_restarting_cannot_help(units: Path) -> None:
    listed = {int(code) for code in values(units / "bintally-agent.service", "RestartPreventExitStatus")[0].split()}
    never = {
        error.exit_code for error in (bundle.errors.ConfigError, bundle.errors.InputError, bundle.errors.BundleError)
    }
    transient = {
        error.exit_code for error in (bundle.errors.EngineError, bundle.errors.CameraError, bundle.errors.DeliveryError)
    }
    assert listed == never | {click.UsageError.exit_code}
    assert not listed & transient


def test_unit_gives_the_last_words_and_the_watchdog_their_time(units: Path) -> None:
    unit = units / "bintally-agent.service"
    stop_s, watchdog_s = (int(values(unit, key)[0]) for key in ("TimeoutStopSec", "WatchdogSec"))
    silent_s = 2 * GOODBYE_S + CLOSE_S
    assert watchdog_s > silent_s
    assert stop_s >= StopSection().stop_timeout_s + CLOSE_S + silent_s


def test_unit_of_a_jetson_sees_the_socket_of_its_cameras(units: Path) -> None:
    """It lies in /tmp (public reports of containers that had to mount /tmp/argus_socket)."""
    assert values(units / "bintally-agent.service", "PrivateTmp") == ["yes"]
    assert values(units / "jetson.conf", "PrivateTmp") == ["no"]
