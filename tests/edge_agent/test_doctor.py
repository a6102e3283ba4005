"""The doctor against a real broker and a real object store, up and down, and against machines that are made up."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pytest
from click.testing import CliRunner

from edge_agent.cli import agent as agent_command
from edge_agent.doctor.cameras import examine_cameras
from edge_agent.doctor.files import examine_clock, examine_secrets, examine_state
from edge_agent.doctor.remote import examine_service, examine_store, judge_service
from edge_agent.machine import ClockQuality
from tests.edge_agent.running import config_text, load_text, write_photos
from tests.simulators.broker import MOSQUITTO, Mosquitto, Subscriber, free_port
from tests.simulators.object_store import CREDENTIALS, MotoStore

if TYPE_CHECKING:
    from edge_agent.config import AgentConfig

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")


def ask(folder: Path, text: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and findings by subject."""
    file = folder / "agent.toml"
    file.write_text(text, encoding="utf-8")
    answer = CliRunner().invoke(agent_command, ["doctor", "--config", str(file), "--json"])
    found = [json.loads(line) for line in answer.output.splitlines() if line.startswith("{")]
    assert len(found) == len({finding["subject"] for finding in found})
    return answer.exit_code, {finding["subject"]: finding for finding in found}


@needs_mosquitto
def test_doctor_finds_all_well_and_what_is_down(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    photos = write_photos(tmp_path / "photos", [1, 2])
    with MotoStore() as store, Mosquitto(tmp_path) as broker:
        rest = f'[s3]\nbucket = "{store.bucket}"\nendpoint_url = "{store.url}"\nconnect_timeout_s = 1\n'
        text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=broker.port, rest=rest)
        with Subscriber(broker.port) as subscriber:
            code, found = ask(tmp_path, text)
            events = [json.loads(message.payload) for message in subscriber.of("/event")]
        assert code == 0
        assert {subject for subject, finding in found.items() if finding["level"] != "ok"} <= {
            "clock",
            "service",
            "tls",
        }
        assert [event["event"] for event in events] == ["doctor"]
        assert store.keys() == ["bintally/wh1/r1/doctor.txt"]

        broker.kill()
        store.stop()
        code, found = ask(tmp_path, text)
        assert code == 1
        assert {subject for subject, finding in found.items() if finding["level"] == "FAIL"} == {"broker", "images"}
        assert "mqtt.host" in found["broker"]["fix"]
        assert found["images"]["fix"]

        missing = config_text(bundle=tmp_path / "none", source="/dev/video-none", state=tmp_path / "state")
        code, found = ask(tmp_path, missing)
        assert code == 1
        assert "bintally bundle install" in found["bundle"]["fix"]
        assert "engine" not in found
        assert "is not there" in found["camera camera"]["words"]
        assert found["images"]["level"] == "warn"
        store.start()


@needs_mosquitto
def test_doctor_tells_a_broker_that_forbids_the_topic(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "acl").write_text("topic read #\n", encoding="utf-8")
    photos = write_photos(tmp_path / "photos", [1])
    with Mosquitto(tmp_path, f"allow_anonymous true\nacl_file {tmp_path / 'acl'}") as broker:
        text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=broker.port)
        code, found = ask(tmp_path, text)
    assert code == 1
    assert "bintally/v1/wh1/r1/event" in found["broker"]["words"]
    assert "access list" in found["broker"]["fix"]


def test_doctor_plain_report_is_one_line_each_with_the_fix(tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", [1])
    file = tmp_path / "agent.toml"
    file.write_text(
        config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=free_port()), encoding="utf-8"
    )
    answer = CliRunner().invoke(agent_command, ["doctor", "--config", str(file)])
    assert answer.exit_code == 1
    lines = answer.output.splitlines()
    assert all(line.split()[0] in ("ok", "warn", "FAIL") for line in lines)
    assert all(("->" in line) == (line.split()[0] != "ok") for line in lines)


def test_systemd_that_does_not_answer_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "systemctl"
    program.write_text("#!/bin/sh\necho 'Failed to connect to bus: Host is down' >&2\nexit 1\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    finding = examine_service()
    assert (finding.level, finding.words) == (
        "warn",
        "systemd does not answer: Failed to connect to bus: Host is down",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_doctor_by_root_leaves_the_folders_of_the_service_to_the_service(tmp_path: Path) -> None:
    user = 65534
    # Not below tmp_path: the service could not enter it.
    with tempfile.TemporaryDirectory(prefix="bintally-machine-") as name:
        machine = Path(name)
        machine.chmod(0o755)
        (machine / "root").mkdir(mode=0o700)
        (machine / "service").mkdir(mode=0o700)
        os.chown(machine / "service", user, user)
        (machine / "service/images").symlink_to(machine / "root")  # as a service that was taken over might plant it

        def config(images: str) -> AgentConfig:
            rest = f"[uploads]\nfolder = '{machine}/service/{images}'\n"
            return load_text(
                tmp_path, config_text(bundle=tmp_path, source=0, state=machine / "service/agent", rest=rest)
            )

        assert examine_state(config("images")).level == "ok"
        assert examine_store(config("images")).level == "FAIL"
        assert not list((machine / "root").iterdir())
        assert examine_store(config("others")).level == "ok"
        of_root = {path.name for path in (machine / "service").rglob("*") if path.lstat().st_uid == 0}
        assert of_root == {"images"}, "the planted link alone"


@pytest.mark.parametrize(
    ("mode", "content", "level", "words"),
    [
        (0o600, b"secret", "ok", ""),
        (0o640, b"secret", "ok", ""),
        (0o644, b"secret", "FAIL", "read by everybody"),
        (0o620, b"secret", "FAIL", "changed by others"),
        (0o600, b"\n", "FAIL", "is empty"),
        (None, b"", "FAIL", "cannot be read"),
    ],
)
def test_secret_is_judged_by_its_mode_and_content(
    tmp_path: Path, mode: int | None, content: bytes, level: str, words: str
) -> None:
    rest = "[mqtt]\nusername = 'r1'\npassword_file = 'secret'\n"
    text = config_text(bundle=tmp_path, source=0, state=tmp_path).replace("[mqtt]\n", rest)
    if mode is not None:
        (tmp_path / "secret").write_bytes(content)
        (tmp_path / "secret").chmod(mode)
    findings = list(examine_secrets(load_text(tmp_path, text)))
    assert [finding.level for finding in findings] == [level]
    assert words in findings[0].words
    assert findings[0].subject == "mqtt.password_file"


def test_camera_with_a_changing_number_is_told_its_stable_name(tmp_path: Path) -> None:
    # A real character device that everybody may open stands for the camera.
    (tmp_path / "dev/v4l/by-id").mkdir(parents=True)
    (tmp_path / "dev/video0").symlink_to(os.devnull)
    config = load_text(tmp_path, config_text(bundle=tmp_path, source="/dev/video0", state=tmp_path))
    assert [finding.level for finding in examine_cameras(config, tmp_path)] == ["ok"]
    (tmp_path / "dev/video0").unlink()
    (tmp_path / "dev/video0").write_bytes(b"")
    assert "is no device" in next(examine_cameras(config, tmp_path)).words
    (tmp_path / "dev/video0").unlink()
    (tmp_path / "dev/video1").write_bytes(b"")
    finding = next(examine_cameras(config, tmp_path))
    assert (finding.level, "/dev/video1" in finding.fix) == ("FAIL", True)


def test_jetson_without_nodes_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36\n", encoding="ascii")
    config = load_text(tmp_path, config_text(bundle=tmp_path, source="/dev/video0", state=tmp_path))
    assert [finding.level for finding in examine_cameras(config, tmp_path)][1] == "warn"
    (tmp_path / "dev/nvmap").symlink_to(os.devnull)
    assert [finding.level for finding in examine_cameras(config, tmp_path)][1] == "ok"


_UNIT = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "Result": "success",
    "NRestarts": "0",
    "Type": "notify",
    "WatchdogUSec": "45s",
    "UnitFileState": "enabled",
    "ExecMainStatus": "0",
}


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, "ok", "watchdog 45s"),
        ({"LoadState": "not-found"}, "warn", "not installed"),
        ({"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "78"}, "FAIL", "exit status 78"),
        ({"ActiveState": "activating", "Result": "watchdog"}, "FAIL", "watchdog"),
        ({"WatchdogUSec": "0"}, "warn", "without its watchdog"),
        ({"WatchdogUSec": "infinity"}, "warn", "without its watchdog"),
        (
            {"WatchdogUSec": "infinity", "ActiveState": "inactive", "UnitFileState": "disabled"},
            "warn",
            "not started at boot",
        ),
        ({"ActiveState": "inactive"}, "warn", "does not run"),
        ({"Type": "simple"}, "warn", "without its watchdog"),
        ({"UnitFileState": "disabled"}, "warn", "not started at boot"),
        ({"ActiveState": "activating", "NRestarts": "900"}, "warn", "nothing is counted"),
        ({"NRestarts": "12"}, "warn", "restarted 12 times"),
    ],
)
def test_service_is_judged_by_what_systemd_says(change: dict[str, str], level: str, words: str) -> None:
    finding = judge_service(_UNIT | change)
    assert (finding.level, words in finding.words) == (level, True)


@pytest.mark.parametrize(
    ("synchronised", "year", "level"),
    [(True, 2027, "ok"), (False, 2027, "warn"), (None, 2027, "warn"), (True, 1970, "FAIL")],
)
def test_clock_is_judged(synchronised: object, year: int, level: str) -> None:
    known = synchronised if isinstance(synchronised, bool) else None
    assert examine_clock(ClockQuality(known, None), year).level == level


def test_sensor_of_a_jetson_is_asked_of_its_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_text(tmp_path, config_text(bundle=tmp_path, source="csi://0", state=tmp_path))
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: False)
    assert "GStreamer" in next(examine_cameras(config, tmp_path)).words
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)
    gone = next(examine_cameras(config, tmp_path))
    assert gone.level == "FAIL"
    assert "PrivateTmp=no" in gone.fix
    (tmp_path / "tmp").mkdir()
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(tmp_path / "tmp/argus_socket"))
        assert "Connection refused" in next(examine_cameras(config, tmp_path)).words
        daemon.listen()
        assert next(examine_cameras(config, tmp_path)).level == "ok"


def test_images_into_a_folder_that_the_service_may_not_write_are_told_its_override(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    photos = write_photos(tmp_path / "photos", [1])
    rest = f"[uploads]\nfolder = '{tmp_path}/file/folder'\n"
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=free_port(), rest=rest)
    _, found = ask(tmp_path, text)
    assert "ReadWritePaths=" in found["images"]["fix"]
