"""The tour as a newcomer runs it: real broker, real store, real agent, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pytest
from click.testing import CliRunner

from bundle.errors import BintallyError
from demo.cli import demo
from tests.simulators.bundle_factory import grey

if TYPE_CHECKING:
    from collections.abc import Callable

_SHIPPED = Path(__file__).resolve().parent.parent.parent / "demo" / "bundle"


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the tour puts its files; empty again at its end, or something was left behind."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def start(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bintally", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_SHIPPED.parent.parent,
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
    )


def run(temporary: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(temporary, *arguments)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, out, err


def last_object(out: str) -> dict[str, Any]:
    found = json.loads(out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_tour_of_rendered_bins_loses_nothing_and_leaves_nothing(temporary: Path, tiny_bundle: Path) -> None:
    code, out, err = run(temporary, "--bundle", str(tiny_bundle), "--frames", "8", "--pause", "0", "--json")
    assert code == 0, err
    summary = last_object(out)
    assert set(summary) == {
        "frames", "accepted", "received", "lost", "unsure", "uploaded", "accuracy", "p50_ms", "p99_ms",
    }  # fmt: skip
    assert (summary["frames"], summary["accepted"], summary["received"], summary["lost"]) == (8, 8, 8, 0)
    assert summary["uploaded"] >= summary["unsure"]  # and what is sure and not what the record says
    assert 0 <= summary["accuracy"] <= 1
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]
    assert err.count("bin-0000") == 8  # not a terminal: one plain line per visit
    assert _left(temporary) == []


def test_tour_of_own_photos_counts_the_first_and_names_the_unreadable(
    tmp_path: Path, temporary: Path, tiny_bundle: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, count in enumerate((0, 2.5, 3, 6, 1)):
        cv2.imwrite(str(photos / f"{number}.png"), grey(count))
    (photos / "2-text.jpg").write_text("not a photo")
    code, out, err = run(
        temporary, "--bundle", str(tiny_bundle), "--source", str(photos), "--frames", "5", "--pause", "0", "--json"
    )
    assert code == 0, err
    summary = last_object(out)
    assert (summary["frames"], summary["received"], summary["lost"]) == (4, 4, 0)
    assert (summary["unsure"], summary["uploaded"], summary["accuracy"]) == (1, 1, None)
    assert "! photo_refused 2-text.jpg" in err


def test_tour_without_its_camera_ends_instead_of_waiting(temporary: Path, tiny_bundle: Path) -> None:
    code, out, err = run(temporary, "--bundle", str(tiny_bundle), "--source", "/dev/video9999")
    assert (code, out) == (74, "")
    assert "/dev/video9999" in err.splitlines()[-1]
    assert _left(temporary) == []


def test_tour_stopped_by_ctrl_c_ends_with_the_summary(temporary: Path, tiny_bundle: Path) -> None:
    process = start(temporary, "--bundle", str(tiny_bundle), "--forever", "--pause", "0.02")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("bin-00012"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = dict(line.split("  ", 1) for line in out.splitlines() if not line.startswith(" "))
    accepted, received = int(lines["counts accepted"]), int(lines["counts received"].split(",")[0])
    assert accepted == received >= 13
    assert "stopped before the end" in out
    assert _left(temporary) == []


def test_tour_killed_takes_the_agent_with_it(temporary: Path, tiny_bundle: Path) -> None:
    process = start(temporary, "--bundle", str(tiny_bundle), "--forever", "--pause", "0.02")
    assert process.stderr is not None
    assert process.stdout is not None
    for line in process.stderr:
        if line.startswith("bin-00001"):
            break
    assert _processes_with(str(temporary))
    process.kill()
    process.wait(10)
    process.stderr.close()
    process.stdout.close()
    _wait_until(lambda: not _processes_with(str(temporary)))


def test_tour_on_a_broker_that_refuses_says_where(temporary: Path, tiny_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = run(temporary, "--bundle", str(tiny_bundle), "--frames", "1", "--broker", address)
    assert (code, out) == (75, "")
    assert address in err
    assert "Traceback" not in err
    assert _left(temporary) == []


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--bundle", "/nowhere"), 78, "/nowhere"),
        (("--source", "/nowhere"), 65, "/nowhere"),
        (("render", "--out", "/dev/null/x", "--count", "1", "--seed", "1"), 65, "/dev/null/x"),
    ],
)
def test_demo_with_a_wrong_path_names_it(tiny_bundle: Path, arguments: tuple[str, ...], code: int, named: str) -> None:
    own = ("--bundle", str(tiny_bundle)) if "--source" in arguments else ()
    error = CliRunner().invoke(demo, [*own, *arguments]).exception
    assert isinstance(error, BintallyError)
    assert error.exit_code == code
    assert named in str(error)


@pytest.mark.parametrize(("arguments", "named"), [(("--broker", "x"), "HOST:PORT"), (("--frames", "0"), "--frames")])
def test_demo_with_a_wrong_value_names_the_option(arguments: tuple[str, ...], named: str) -> None:
    result = CliRunner().invoke(demo, arguments)
    assert result.exit_code == 2
    assert named in result.output


@pytest.mark.parametrize("package", ["amqtt", "moto", "rich"])
def test_demo_without_its_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    error = CliRunner().invoke(demo, []).exception
    assert isinstance(error, BintallyError)
    assert error.exit_code == 78
    assert f"needs the package {package}" in str(error)
    assert "pip install '.[demo]'" in str(error)


@pytest.mark.skipif(not (_SHIPPED / "manifest.json").is_file(), reason="demo/bundle is not made yet")
def test_tour_with_the_shipped_bundle_counts_what_was_rendered(temporary: Path) -> None:
    code, out, err = run(temporary, "--frames", "40", "--seed", "11", "--pause", "0", "--json")
    assert code == 0, err
    summary = last_object(out)
    assert (summary["lost"], summary["received"]) == (0, 40)
    assert summary["uploaded"] >= summary["unsure"]  # and what is sure and not what the record says
    assert summary["accuracy"] >= 0.8  # 0.9 is promised over many bins; 40 of them may be 0.1 off by chance


def _left(temporary: Path) -> list[str]:
    return [*(path.name for path in temporary.iterdir()), *_processes_with(str(temporary))]


def _processes_with(text: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if text in command:
                found.append(command)
    return found


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
