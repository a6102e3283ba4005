"""What leaves the agent's commands: no secret, nothing that a reader who goes away could break."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from paho.mqtt.enums import MQTTProtocolVersion

from bundle.errors import InputError
from edge_agent.cli import agent as agent_command
from edge_agent.outbox.rescue import open_outbox
from tests.edge_agent.running import ROOT, AgentProcess, config_text, load_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import EmbeddedBroker, Subscriber, free_port

if TYPE_CHECKING:
    from pathlib import Path

_SECRET = "s3cret"


def test_run_and_check_config_never_show_a_camera_password(tmp_path: Path, tiny_bundle: Path) -> None:
    state = tmp_path / "state"
    source = f"rtsp://user:{_SECRET}@127.0.0.1:{free_port()}/x"
    with EmbeddedBroker() as broker, Subscriber(broker.port, version=MQTTProtocolVersion.MQTTv311) as subscriber:
        text = config_text(bundle=tiny_bundle, source=source, state=state, port=broker.port)
        load_text(tmp_path, text)
        for flags in ([], ["--json"]):
            arguments = ["check-config", "--config", str(tmp_path / "agent.toml"), *flags]
            checked = CliRunner().invoke(agent_command, arguments)
            assert checked.exit_code == 0
            assert "rtsp://***@127.0.0.1" in checked.output
            assert _SECRET not in checked.output
        process = AgentProcess.start(tmp_path, text)
        wait_until(lambda: subscriber.of("/event") and any(b"degraded" in m.payload for m in subscriber.of("/status")))
        assert process.terminate() == 0, process.stderr
        said = [message.payload.decode() for message in subscriber.messages] + process.stderr
    assert any("rtsp://***@127.0.0.1" in text for text in said)
    assert not [text for text in said if _SECRET in text]
    files = [file for file in state.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if _SECRET.encode() in file.read_bytes()]


def test_run_counts_on_when_the_reader_of_its_counts_goes_away(tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", [n % 6 for n in range(60)])
    load_text(
        tmp_path,
        config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", camera="pause_s = 0.01"),
    )
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bintally.py"), "agent", "run", "--config", str(tmp_path / "agent.toml"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("{")
    process.stdout.close()
    assert process.stderr is not None
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0, stderr
    assert stderr.count("stdout takes no more lines") == 1
    assert "BrokenPipeError" not in stderr
    file, _ = open_outbox(tmp_path / "state" / "outbox.db", 16 << 20)
    counted = [row for row in file.messages(0, 1000).rows if row.kind == "count"]
    file.close()
    assert len(counted) == 60


def test_check_config_text_file_as_a_video_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "notes.txt").write_text("shelf 4 is empty\n" * 50, encoding="utf-8")
    load_text(tmp_path, config_text(bundle=tiny_bundle, source=tmp_path / "notes.txt", state=tmp_path / "state"))
    answer = CliRunner().invoke(agent_command, ["check-config", "--config", str(tmp_path / "agent.toml")])
    assert isinstance(answer.exception, InputError)
    assert "notes.txt has no readable frame" in str(answer.exception)


@pytest.mark.parametrize(("kind", "words"), [("none", "does not exist"), ("folder", "neither a bundle nor a store")])
def test_check_config_without_a_bundle_says_how_to_install_one(tmp_path: Path, kind: str, words: str) -> None:
    bundle = tmp_path / "bundles"
    if kind == "folder":
        bundle.mkdir()
    photos = write_photos(tmp_path / "photos", [1])
    load_text(tmp_path, config_text(bundle=bundle, source=photos, state=tmp_path / "state"))
    answer = CliRunner().invoke(agent_command, ["check-config", "--config", str(tmp_path / "agent.toml")])
    assert words in str(answer.exception)
    assert "bintally bundle install FOLDER --store STORE" in str(answer.exception)


def test_check_config_store_without_an_active_bundle_says_so(tmp_path: Path) -> None:
    (tmp_path / "store" / "bundles").mkdir(parents=True)
    photos = write_photos(tmp_path / "photos", [1])
    load_text(tmp_path, config_text(bundle=tmp_path / "store", source=photos, state=tmp_path / "state"))
    answer = CliRunner().invoke(agent_command, ["check-config", "--config", str(tmp_path / "agent.toml")])
    assert "has no active bundle" in str(answer.exception)
