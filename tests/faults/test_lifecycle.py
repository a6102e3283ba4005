"""Stops, sleeps, doubles and a starved process: bounded, nothing lost, and back without help."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.faults.kills import read_outbox
from tests.faults.test_broker import RealWorld
from tests.faults.writer import entry, open_ledger
from tests.simulators.broker import MOSQUITTO, Mosquitto, Script, ScriptedBroker, Subscriber
from tests.simulators.camera import source_for

if TYPE_CHECKING:
    from collections.abc import Sequence

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")


def test_sigterm_with_ten_thousand_waiting_and_a_silent_broker_is_bounded_and_loses_nothing(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    state = tmp_path / "state"
    ledger, _ = open_ledger(state)
    for first in range(0, 10_000, 500):
        ledger.commit([entry(2 * number) for number in range(first, first + 500)], [])
    ledger.file.close()
    photos = write_photos(tmp_path / "photos", [1, 2, 3])
    with ScriptedBroker(Script(reason=lambda _: None)) as broker:
        camera = "repeat = true\npause_s = 0.05"
        text = config_text(bundle=tiny_bundle, source=photos, state=state, port=broker.port, camera=camera)
        agent = AgentProcess.start(tmp_path, text.replace("stop_timeout_s = 10", "stop_timeout_s = 1"))
        wait_until(lambda: len(agent.counts) >= 5 and broker.published, what="counts and a first publication")
        asked_s = time.monotonic()
        assert agent.terminate() == 0, agent.stderr
        took_s = time.monotonic() - asked_s
    assert took_s < 1 + 10 + 5 + 5 + 10  # what the agent asks systemd for
    assert len(read_outbox(state).counts) == 10_000 + len(agent.counts)
    assert agent.totals["delivered"] == 0
    assert any(f"{10_000 + len(agent.counts)} messages" in line for line in agent.stderr)


def stop_for(agent: AgentProcess, seconds: float) -> None:
    agent.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    agent.process.send_signal(signal.SIGCONT)


def test_agent_that_slept_joins_no_frames_from_before_and_after(tmp_path: Path, tiny_bundle: Path) -> None:
    control, engine = tmp_path / "control", tmp_path / "engine"
    control.write_text("1", encoding="utf-8")
    engine.write_text("healthy", encoding="utf-8")
    camera = "look_fps = 20\nstall_s = 0.5\n[cameras.visit]\ninterval_s = 0.05\nframes = 12"
    text = config_text(bundle=tiny_bundle, source=source_for(control), state=tmp_path / "state", camera=camera)
    agent = AgentProcess.start(tmp_path, text, [sys.executable, "-m", "tests.faults.sick_agent", str(engine)])
    for label in ("5", "1", "5"):
        before = len(agent.counts)
        wait_until(lambda: len(agent.counts) > before, what="a count")  # noqa: B023 - called at once
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)  # also a starved camera has filled its slot by now
        control.write_text(label, encoding="utf-8")  # the robot is carried to another bin meanwhile
        time.sleep(0.4)
        agent.process.send_signal(signal.SIGCONT)
        wait_until(lambda: agent.ended or agent.counts[-1]["label"] == label, what="the other bin")  # noqa: B023 - at once
        assert not agent.ended, agent.stderr
    assert agent.terminate() == 0, agent.stderr
    assert {count["label"] for count in agent.counts} == {"1", "5"}
    assert [count for count in agent.counts if count["confidence"] <= 0.9] == []


@needs_mosquitto
def test_two_robots_under_one_name_throw_each_other_out_ever_more_rarely_and_lose_nothing(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        worlds = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            worlds.append(RealWorld(tmp_path / name, broker.port, reconnect_max_s=60))
        for number, world in enumerate(worlds):
            world.start()
            world.put(*range(100 * number, 100 * number + 20))
        wait_until(lambda: all(world.is_empty() for world in worlds), what="every count")
        wait_until(lambda: min(world.the.connects for world in worlds) >= 2, what="a takeover")
        first = [world.the.connects for world in worlds]
        time.sleep(3.0)  # how often within this time is what counts
        more = [world.the.connects - before for world, before in zip(worlds, first, strict=True)]
        for world in worlds:
            world.stop()
        got = {json.loads(message.payload)["event_id"] for message in subscriber.of("/count")}
    assert sum(more) <= 6
    assert got == {f"e{number}" for number in (*range(20), *range(100, 120))}


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score").read_text(encoding="ascii"))


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@needs_mosquitto
def test_agent_out_of_descriptors_goes_on_and_recovers_when_there_are_some(tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", [1, 2, 3])
    state = tmp_path / "state"
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        camera = "repeat = true\npause_s = 0.02"
        rest = f'[uploads]\nfolder = "{tmp_path / "up"}"\naudit_share = 1.0\n[telemetry]\ninterval_s = 0.2\n'
        text = config_text(bundle=tiny_bundle, source=photos, state=state, port=broker.port, camera=camera, rest=rest)
        agent = AgentProcess.start(tmp_path, text)
        wait_until(lambda: len(agent.counts) >= 10, what="counts")
        pid = agent.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
        assert oom_score(children(pid)[0]) > oom_score(pid) + 200  # the kernel takes the capture process first
        os.kill(children(pid)[0], signal.SIGKILL)
        broker.kill()
        broker.start()
        wait_until(lambda: not children(pid) or agent.ended, what="the end of the capture process")
        time.sleep(1.5)  # many turns of every thread
        assert not agent.ended, agent.stderr
        before = len(agent.counts)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        wait_until(lambda: len(agent.counts) > before + 10 or agent.ended, what="counts afterwards")
        assert agent.terminate() == 0, agent.stderr
        accepted = {count["event_id"] for count in agent.counts}
        missing = accepted - read_outbox(state).counts
        wait_until(lambda: missing <= ids(subscriber), what="every count")


def ids(subscriber: Subscriber) -> set[str]:
    found: Sequence[dict[str, Any]] = [json.loads(message.payload) for message in subscriber.of("/count")]
    return {fields["event_id"] for fields in found}
