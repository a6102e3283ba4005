"""An engine that spoils its answers, fails or hangs: no bad count, no silent agent, nothing accepted is lost."""

from __future__ import annotations

import signal
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.faults.kills import read_outbox

if TYPE_CHECKING:
    from pathlib import Path

_RIGHT = {f"{number:04d}": number for number in range(6)}


class Ward:
    """An agent whose engine obeys a control file."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._folder, self.control, self.state = folder, folder / "control", folder / "state"
        photos = write_photos(folder / "photos", list(_RIGHT.values()))
        camera = "repeat = true\npause_s = 0.02"
        self._text = config_text(bundle=bundle, source=photos, state=self.state, camera=camera)

    def start(self, order: str = "", **environment: str) -> AgentProcess:
        self.control.write_text(order, encoding="utf-8")
        command = [sys.executable, "-m", "tests.faults.sick_agent", str(self.control)]
        return AgentProcess.start(self._folder, self._text, command, **{"SICK_PATIENCE_S": "3", **environment})

    def fall_ill(self, agent: AgentProcess, order: str) -> None:
        wait_until(lambda: len(agent.counts) >= 12, what="healthy counts")
        self.control.write_text(order, encoding="utf-8")


def is_silent(systemd: socket.socket) -> bool:
    try:
        systemd.recv(4096)
    except TimeoutError:
        return True
    return False


def are_right(agent: AgentProcess) -> bool:
    return all(count["count"] == _RIGHT[count["bin_id"]] for count in agent.counts)


def test_engine_that_spoils_its_answers_costs_frames_then_the_agent_but_gives_no_bad_count(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    ward = Ward(tmp_path, tiny_bundle)
    agent = ward.start()
    ward.fall_ill(agent, "half")
    before = len(agent.counts)
    wait_until(lambda: len(agent.counts) > before + 30, what="counts between failures")
    assert are_right(agent)
    ward.control.write_text("constant", encoding="utf-8")
    wait_until(lambda: not agent.counts[-1]["confident"], what="an unsure count")
    ward.control.write_text("nan", encoding="utf-8")
    assert agent.wait() == 70, agent.stderr
    assert all(count["count"] == _RIGHT[count["bin_id"]] for count in agent.counts if count["confident"])
    assert {count["event_id"] for count in agent.counts} <= read_outbox(ward.state).counts
    (said,) = [line for line in agent.stderr if line.startswith("bintally: ")]
    assert "20 frames in a row failed" in said


@pytest.mark.soak
@pytest.mark.parametrize("order", ["inf", "shape", "raise", "memory"])
def test_engine_that_fails_for_good_ends_the_agent_with_its_code_and_no_bad_count(
    tmp_path: Path, tiny_bundle: Path, order: str
) -> None:
    ward = Ward(tmp_path, tiny_bundle)
    agent = ward.start()
    ward.fall_ill(agent, order)
    assert agent.wait() == 70, agent.stderr
    assert are_right(agent)
    assert {count["event_id"] for count in agent.counts} <= read_outbox(ward.state).counts


@pytest.mark.soak
def test_engine_that_says_the_same_of_everything_is_refused_at_the_start(tmp_path: Path, tiny_bundle: Path) -> None:
    agent = Ward(tmp_path, tiny_bundle).start("constant")
    assert agent.wait() == 70, agent.stderr
    assert any("golden" in line for line in agent.stderr)


def test_engine_that_hangs_ends_the_agent_which_says_where_and_loses_nothing(tmp_path: Path, tiny_bundle: Path) -> None:
    ward = Ward(tmp_path, tiny_bundle)
    agent = ward.start()
    ward.fall_ill(agent, "hang")
    assert agent.wait() == 1
    assert any("in spoil" in line for line in agent.stderr), agent.stderr
    assert {count["event_id"] for count in agent.counts} <= read_outbox(ward.state).counts
    assert are_right(agent)


@pytest.mark.soak
def test_engine_that_hangs_stops_feeding_systemd_whose_abort_shows_where(tmp_path: Path, tiny_bundle: Path) -> None:
    ward = Ward(tmp_path, tiny_bundle)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        agent = ward.start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="2000000")
        while b"WATCHDOG=1" not in systemd.recv(4096):
            continue
        ward.fall_ill(agent, "hang")
        systemd.settimeout(2)  # as systemd waits, counted from the last sign of life
        wait_until(lambda: is_silent(systemd), what="the silence of a hung agent")
    agent.process.send_signal(signal.SIGABRT)
    assert agent.wait() == -signal.SIGABRT
    assert any("in spoil" in line for line in agent.stderr)
