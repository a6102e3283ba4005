"""The real agent, as systemd and Prometheus see it."""

from __future__ import annotations

import socket
import urllib.request
from typing import TYPE_CHECKING

from edge_agent import stages
from edge_agent.assemble import assemble
from tests.edge_agent.running import config_text, load_text, write_photos
from tests.edge_agent.test_agent import Running
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import free_port

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_agent_without_a_camera_is_ready_degraded_and_says_why(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, said = free_port(), [""]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "45000000")
        rest = f"[telemetry]\ninterval_s = 0.2\nprometheus_port = {port}\n"
        text = config_text(bundle=tiny_bundle, source="/dev/video-none", state=tmp_path / "state", rest=rest)
        running = Running(assemble(load_text(tmp_path, text)))
        while not said[-1].startswith("STATUS=degraded") or "no frame yet" in said[-1]:
            said.append(systemd.recv(4096).decode())

        def page() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        wait_until(lambda: 'bintally_state{robot="r1",state="degraded"} 1.0' in page())
        running.stop()
    assert "READY=1" in said[: said.index(said[-1])]
    assert "camera camera: " in said[-1]
    assert "0 counts, " in said[-1]


def test_agent_that_delivers_longer_than_a_command_may_be_silent_is_not_late(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stages.BUDGETS_S, "commands", 0.5)
    photos = write_photos(tmp_path / "photos", [1])
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state")
    text = text.replace("drain_timeout_s = 0", "drain_timeout_s = 1.0")  # all of it, because there is no broker
    running = assemble(load_text(tmp_path, text))
    assert running.run()["queued_messages"] == 1
    assert "commands" not in running.late
