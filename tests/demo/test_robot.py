"""The robot of the tour: its configuration, and that it never outlives the tour."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bundle.errors import BintallyError
from demo.robot import Robot, RobotPlan, configuration
from demo.shelf import Shelf

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable


def plan_for(source: int | str, **changes: object) -> RobotPlan:
    values: dict[str, object] = {
        "name": "tour-1",
        "bundle": Path("/b"),
        "shelf": Shelf(source, {}, None, None if isinstance(source, int) else 5),
        "broker": ("127.0.0.1", 1883),
        "bucket": "review",
        "endpoint_url": "http://127.0.0.1:1",
        "pause_s": 0.5,
        "repeat": False,
    }
    return RobotPlan(**{**values, **changes})  # type: ignore[arg-type]  # a table of values of several types


@pytest.mark.parametrize("folder", ['/a "b"\\c\n\t\x7f\x01/ü/日本/🦊', "/plain"])
def test_configuration_of_any_path_reads_back_as_that_path(folder: str) -> None:
    read = tomllib.loads(configuration(plan_for(folder, bundle=Path(folder)), Path(folder)))
    assert read["cameras"][0]["source"] == folder
    assert read["bundle"]["path"] == folder
    assert read["state"]["path"] == f"{folder}/state"


def test_configuration_of_a_camera_keeps_its_index_a_number_and_does_not_pause() -> None:
    camera = tomllib.loads(configuration(plan_for(0), Path("/x")))["cameras"][0]
    assert camera == {"name": "tour", "source": 0, "repeat": False}


def test_configuration_is_one_that_the_agent_accepts(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "bins").mkdir()
    (tmp_path / "bins" / "a.jpg").write_bytes(b"x")
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    config = tmp_path / "agent.toml"
    config.write_text(configuration(plan_for(str(tmp_path / "bins"), bundle=tiny_bundle), tmp_path))
    command = [sys.executable, "-m", "bintally", "agent", "check-config", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_repository())
    assert done.returncode == 0, done.stderr


def test_robot_whose_agent_fails_says_so_with_its_last_words(tmp_path: Path) -> None:
    with Robot(plan_for(str(tmp_path), bundle=tmp_path / "no-bundle"), tmp_path) as robot:
        _wait_until(lambda: not robot.is_running())
        with pytest.raises(BintallyError, match=r"(?s)exit code 78.*no-bundle"):
            robot.check()


def test_leash_ends_the_command_when_its_parent_is_killed() -> None:
    code = (
        "import os, subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-m', 'demo.leash', str(os.getpid()), '/bin/sleep', '60']);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=_repository())
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    _wait_until(lambda: "sleep" in _command(child))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    _wait_until(lambda: not _command(child))


def _command(pid: int) -> str:
    """The command line of a process; empty when it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _repository() -> Path:
    return Path(__file__).resolve().parent.parent.parent


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
