"""The real agent, in this process or as one of its own, against real brokers and stores."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from bundle.errors import BintallyError, ConfigError, InputError, IntegrityError
from bundle.images import encode_jpeg, read
from edge_agent.assemble import assemble
from edge_agent.cli import agent as agent_command
from edge_agent.outbox.rescue import open_outbox
from tests.edge_agent.running import AgentProcess, config_text, load_text, write_photos
from tests.edge_agent.test_sources import huge_png
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, EmbeddedBroker, Mosquitto, Script, ScriptedBroker, Subscriber
from tests.simulators.bundle_factory import grey, make_bundle
from tests.simulators.camera import COMMAND, source_for
from tests.simulators.object_store import CREDENTIALS, MotoStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_agent.agent import Agent
    from edge_agent.messages import Totals

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")
COUNTS = [0, 1, 2, 3, 4, 5, 6, 2.5, 3.5, 1]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as made:
        yield made


def drain(sock: socket.socket) -> list[bytes]:
    """Everything that has been sent so far."""
    sock.setblocking(False)
    found: list[bytes] = []
    try:
        while True:
            found.append(sock.recv(256))
    except BlockingIOError:
        return found


class Running:
    """An agent that runs in a thread of this process."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.totals: Totals = {}
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.totals = self.agent.run()
        except BintallyError as exc:
            self.error = exc

    def stop(self) -> Totals:
        self.agent.request_stop()
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.totals


def payloads(subscriber: Subscriber, end: str) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message in subscriber.of(end)]


@needs_mosquitto
def test_agent_folder_every_photo_becomes_one_count_and_unsure_ones_are_uploaded(
    tmp_path: Path, tiny_bundle: Path, broker: Mosquitto
) -> None:
    photos = write_photos(tmp_path / "photos", COUNTS)
    (tmp_path / "records.csv").write_text("bin_id,record\n0001,1\n0002,9\n0003,1\n0006,8\n0007,2\n", encoding="utf-8")
    rest = (
        f'[uploads]\naudit_share = 0.0\nfolder = "{tmp_path / "up"}"\n[records]\nfile = "{tmp_path / "records.csv"}"\n'
    )
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=broker.port, rest=rest)
    with Subscriber(broker.port) as subscriber:
        totals = assemble(load_text(tmp_path, text)).run()
        wait_until(lambda: payloads(subscriber, "/status")[-1:] and payloads(subscriber, "/status")[-1]["totals"])
        counts = {fields["bin_id"]: fields for fields in payloads(subscriber, "/count")}
    assert totals["frames"] == totals["accepted"] == totals["delivered"] == 10
    assert (totals["unsure"], totals["uploaded"]) == (2, 4)
    assert (totals["queued_messages"], totals["queued_images"]) == (0, 0)
    assert [counts[f"{n:04d}"]["label"] for n in range(7)] == ["0", "1", "2", "3", "4", "5", "6+"]
    assert counts["0006"]["at_least"]
    verdicts = [counts[f"{n:04d}"]["verdict"] for n in (1, 2, 3, 6, 7)]
    assert verdicts == ["match", "unsure", "over", "match", "unsure"] or verdicts[1] in ("short", "unsure")
    assert counts["0000"]["verdict"] is None
    for number, why in {2: "mismatch", 3: "mismatch", 7: "unsure", 8: "unsure"}.items():
        fields = counts[f"{number:04d}"]
        assert fields["confident"] == (why == "mismatch")
        image = tmp_path / "up" / fields["image_key"]
        assert image.read_bytes() == (photos / f"{number:04d}.jpg").read_bytes()
        sidecar = json.loads(image.with_suffix(".json").read_text(encoding="utf-8"))
        assert sidecar["count"]["event_id"] == fields["event_id"]
        assert sidecar["why"] == why
    assert all(counts[f"{n:04d}"]["image_key"] is None for n in (0, 1, 4, 5, 6))
    assert len(list((tmp_path / "up").rglob("*.jpg"))) == 4
    last = payloads(subscriber, "/status")[-1]
    assert last["state"] == "offline"
    assert last["totals"] == totals


def test_agent_blurs_what_lies_beside_the_bin_before_an_image_leaves(tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", [2.5, 2.5])
    rest = (
        f'[uploads]\nfolder = "{tmp_path / "up"}"\nblur_outside = true\n[uploads.quota]\nimages_per_bin_per_day = 1\n'
    )
    camera = 'bin_id = "one"\nregion = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]'
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", camera=camera, rest=rest)
    text = text.replace("drain_timeout_s = 0", "drain_timeout_s = 5")
    totals = assemble(load_text(tmp_path, text)).run()
    (image,) = (tmp_path / "up").rglob("*.jpg")  # the second one of that bin was over its bound
    assert totals["uploaded"] == 1
    shown, photo = (read(file).astype(np.int16) for file in (image, photos / "0000.jpg"))
    assert np.abs(shown[20:28, 24:40] - photo[20:28, 24:40]).mean() < 2
    # Of the noise of a photo, cells leave next to nothing.
    hidden, there = (np.abs(np.diff(one[2:10, 2:60], axis=1)).mean() for one in (shown, photo))
    assert hidden < there / 3


@needs_mosquitto
def test_agent_retained_topics_show_the_newest_count_and_the_last_words(
    tmp_path: Path, tiny_bundle: Path, broker: Mosquitto
) -> None:
    photos = write_photos(tmp_path / "photos", [1, 2])
    for _ in range(2):
        text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=broker.port)
        assemble(load_text(tmp_path, text)).run()
        (photos / "0001.jpg").write_bytes((photos / "0000.jpg").read_bytes())
    with Subscriber(broker.port) as subscriber:
        wait_until(lambda: len(subscriber.messages) == 3)
        assert all(message.retained for message in subscriber.messages)
        assert payloads(subscriber, "/bin/0001")[0]["count"] == 1
        assert payloads(subscriber, "/status")[0]["state"] == "offline"


def test_agent_embedded_broker_of_the_demo_receives_every_count(tmp_path: Path, tiny_bundle: Path) -> None:
    from paho.mqtt.enums import MQTTProtocolVersion

    photos = write_photos(tmp_path / "photos", COUNTS)
    with EmbeddedBroker() as embedded, Subscriber(embedded.port, version=MQTTProtocolVersion.MQTTv311) as subscriber:
        text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=embedded.port)
        totals = assemble(load_text(tmp_path, text)).run()
        wait_until(lambda: len(subscriber.of("/count")) == 10)
        assert totals["delivered"] == 10


@pytest.mark.parametrize("with_will_alone", [False, True])
def test_agent_broker_that_swallows_version_5_gets_every_count_in_the_older_one(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, *, with_will_alone: bool
) -> None:
    monkeypatch.setattr("edge_agent.delivery.mqtt._CONNACK_TIMEOUT_S", 0.3)
    photos = write_photos(tmp_path / "photos", COUNTS)
    script = Script(swallows=lambda version, will: version == 5 and (will or not with_will_alone))
    with ScriptedBroker(script) as scripted:
        text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=scripted.port)
        totals = assemble(load_text(tmp_path, text)).run()
    assert totals["delivered"] == 10
    assert scripted.versions == [*[5, 5] * 3, 4] if with_will_alone else [5, 5, 5, 4]


def test_agent_says_in_its_status_that_the_broker_refuses_counts_and_loses_none(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.delivery.held._FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr("edge_agent.delivery.held._LONGEST_PAUSE_S", 0.1)
    photos = write_photos(tmp_path / "photos", COUNTS)
    script = Script(reason=lambda topic: 0x87 if topic.endswith("/count") else 0)
    with ScriptedBroker(script) as scripted:
        text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=scripted.port)
        agent = assemble(load_text(tmp_path, text))
        running = Running(agent)
        wait_until(lambda: "broker: it refuses counts: Not authorized" in agent.parts.alarms.reasons)
        assert agent.parts.alarms.state == "degraded"
        script.reason = lambda _: 0
        wait_until(lambda: running.totals, what="the end of the run")
    assert (running.totals["delivered"], running.totals["refused"]) == (10, 0)
    assert agent.parts.publisher.refusals == ()


def test_agent_remembers_that_the_broker_speaks_version_5(tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", COUNTS[:1])
    knew = []
    with ScriptedBroker() as scripted:
        for _ in range(2):
            text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=scripted.port)
            agent = assemble(load_text(tmp_path, text))
            knew.append(agent.parts.publisher.speaks_newest)
            agent.run()
    assert knew == [False, True]
    assert scripted.versions == [5, 5, 5]  # a probe before the first connection alone


@needs_mosquitto
def test_agent_unsure_images_reach_an_object_store_that_was_down(
    tmp_path: Path, tiny_bundle: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    photos = write_photos(tmp_path / "photos", [0.5, 1, 2.5])
    with MotoStore() as store:
        store.stop()
        rest = f'[s3]\nbucket = "{store.bucket}"\nendpoint_url = "{store.url}"\nretry_max_s = 0.2\n'
        rest += "[uploads]\naudit_share = 0.0\n"  # a sure count is drawn for the audit once in a hundred runs
        text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=broker.port, rest=rest)
        with Subscriber(broker.port) as subscriber:
            running = Running(assemble(load_text(tmp_path, text)))
            wait_until(lambda: any(s["state"] == "degraded" for s in payloads(subscriber, "/status")))
            store.start()
            wait_until(lambda: running.totals, what="the end of the run")
            keys = {fields["image_key"] for fields in payloads(subscriber, "/count")} - {None}
        assert running.totals["uploaded"] == 2
        assert set(store.keys()) == keys | {key.replace(".jpg", ".json") for key in keys}
        assert all(key.startswith("bintally/wh1/r1/") for key in keys)


@needs_mosquitto
def test_agent_broker_down_then_up_delivers_everything_in_order_and_marks_it_late(
    tmp_path: Path, tiny_bundle: Path, broker: Mosquitto
) -> None:
    photos = write_photos(tmp_path / "photos", [n % 6 for n in range(60)])
    rest = ""
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=broker.port, rest=rest)
    text = text.replace("reconnect_max_s = 0.3", "reconnect_max_s = 0.3\nhistorical_after_s = 1")
    broker.kill()
    running = Running(assemble(load_text(tmp_path, text)))
    outbox = running.agent.parts.outbox
    wait_until(lambda: outbox.numbers().accepted_counts == 60)
    last_accepted_s = outbox._ledger.uptime_s
    wait_until(lambda: outbox._ledger.uptime_s - last_accepted_s > 2)  # twice as old as what counts as late
    broker.start()
    with Subscriber(broker.port) as subscriber:
        wait_until(lambda: running.totals, what="the end of the run")
        wait_until(lambda: len(subscriber.of("/bin/0059")) == 1)
        late = payloads(subscriber, "/bin/0000") + payloads(subscriber, "/count")
    assert running.totals["delivered"] == 60
    assert all(fields["is_historical"] for fields in late)


@needs_mosquitto
def test_agent_bad_photos_get_one_event_each_and_no_count(tmp_path: Path, tiny_bundle: Path, broker: Mosquitto) -> None:
    photos = write_photos(tmp_path / "photos", [1, 2])
    whole = encode_jpeg(grey(3))
    (photos / "bad-truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "bad-text.jpg").write_text("no photo", encoding="utf-8")
    (photos / "bad-huge.png").write_bytes(huge_png())
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=broker.port)
    with Subscriber(broker.port) as subscriber:
        totals = assemble(load_text(tmp_path, text)).run()
        wait_until(lambda: len(subscriber.of("/event")) == 3)
        wait_until(lambda: len(subscriber.of("/count")) == 2)
        events = {fields["subject"]: fields for fields in payloads(subscriber, "/event")}
        counted = {fields["bin_id"] for fields in payloads(subscriber, "/count")}
    assert counted == {"0000", "0001"}
    assert (totals["accepted"], totals["photos_refused"]) == (2, 3)
    assert {fields["event"] for fields in events.values()} == {"photo_refused"}
    assert "truncated" in events["bad-truncated.jpg"]["problem"]
    assert "JPEG or PNG" in events["bad-text.jpg"]["problem"]
    assert "30000x30000" in events["bad-huge.png"]["problem"]


@needs_mosquitto
def test_agent_live_camera_stall_freeze_and_black_are_said_and_not_counted(
    tmp_path: Path, tiny_bundle: Path, broker: Mosquitto
) -> None:
    control = tmp_path / "control"
    control.write_text("1", encoding="utf-8")
    camera = "stall_s = 0.6\n[cameras.visit]\ninterval_s = 0.1\nframes = 2\n[cameras.gate]\nfrozen_s = 0.5\n"
    text = config_text(
        bundle=tiny_bundle,
        source=source_for(control),
        state=tmp_path / "state",
        port=broker.port,
        camera=camera,
        rest="[telemetry]\ninterval_s = 0.3",
    )
    with Subscriber(broker.port) as subscriber:
        running = Running(assemble(load_text(tmp_path, text), capture_command=COMMAND))

        def labels() -> set[str]:
            return {fields["label"] for fields in payloads(subscriber, "/count")}

        def events(kind: str, words: str) -> bool:
            return any(e["event"] == kind and words in e["problem"] for e in payloads(subscriber, "/event"))

        wait_until(lambda: "1" in labels())
        control.write_text("stall", encoding="utf-8")
        wait_until(lambda: events("camera_lost", "no frame for"))
        wait_until(lambda: payloads(subscriber, "/status")[-1]["state"] == "degraded")
        control.write_text("3", encoding="utf-8")
        wait_until(lambda: "3" in labels())
        wait_until(lambda: payloads(subscriber, "/status")[-1]["state"] == "online")
        control.write_text("black", encoding="utf-8")
        wait_until(lambda: events("visit_rejected", "dark"))
        control.write_text("freeze", encoding="utf-8")
        wait_until(lambda: events("camera_lost", "frozen"))
        control.write_text("5", encoding="utf-8")
        wait_until(lambda: "5" in labels())
        wait_until(lambda: any("infer" in fields["latency"] for fields in payloads(subscriber, "/telemetry")))
        totals = running.stop()
        drops = payloads(subscriber, "/telemetry")[-1]["drops"]
        wait_until(lambda: payloads(subscriber, "/status")[-1]["state"] == "offline")
    assert labels() == {"1", "3", "5"}
    assert totals["accepted"] == totals["delivered"]
    assert drops["camera_losses"] >= 2
    assert drops["frames_rejected"] > 0


@needs_mosquitto
def test_agent_stopped_within_a_visit_counts_what_it_saw_and_tells_of_a_camera_that_never_works(
    tmp_path: Path, tiny_bundle: Path, broker: Mosquitto
) -> None:
    control, broken = tmp_path / "control", tmp_path / "broken"
    control.write_text("3", encoding="utf-8")
    broken.write_text("never", encoding="utf-8")
    left = "look_fps = 3\nvisit.frames = 32\n"
    camera = f'name = "left"\n{left}[[cameras]]\nname = "right"\nsource = "{source_for(broken)}"\n'
    text = config_text(
        bundle=tiny_bundle, source=source_for(control), state=tmp_path / "state", port=broker.port, camera=camera
    )
    with Subscriber(broker.port) as subscriber:
        agent = assemble(load_text(tmp_path, text), capture_command=COMMAND)
        running = Running(agent)
        wait_until(lambda: payloads(subscriber, "/status")[-1:], what="a status")
        first = payloads(subscriber, "/status")[0]
        wait_until(lambda: (agent.parts.report.totals()["frames"] or 0) >= 3, what="frames of the visit")
        wait_until(lambda: "never work" in str(payloads(subscriber, "/status")[-1]), what="one that never will")
        wait_until(lambda: len(payloads(subscriber, "/status")[-1]["reasons"]) == 1, what="one camera that works")
        last = payloads(subscriber, "/status")[-1]
        running.stop()
        wait_until(lambda: payloads(subscriber, "/count"), what="the count of the visit that was cut short")
    assert first["reasons"] == ["camera left: no frame yet", "camera right: no frame yet"]
    assert "can never work" in str(running.error)
    assert (last["state"], "right" in last["reasons"][0]) == ("degraded", True)
    (count,) = payloads(subscriber, "/count")
    assert (count["label"], count["frames"] >= 1) == ("3", True)


def test_agent_empty_folder_is_an_input_error(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "photos").mkdir()
    text = config_text(bundle=tiny_bundle, source=tmp_path / "photos", state=tmp_path / "state")
    with pytest.raises(InputError, match="holds no photos"):
        assemble(load_text(tmp_path, text)).run()


def test_agent_damaged_bundle_is_refused_before_anything_runs(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    data = bytearray((bundle / "model.cpu.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.cpu.onnx").write_bytes(data)
    photos = write_photos(tmp_path / "photos", [1])
    config = load_text(tmp_path, config_text(bundle=bundle, source=photos, state=tmp_path / "state"))
    with pytest.raises(IntegrityError, match=r"model\.cpu\.onnx"):
        assemble(config)
    (bundle / "model.cpu.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"model\.cpu\.onnx is missing"):
        assemble(config)


def test_agent_second_agent_on_one_state_folder_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", [1])
    config = load_text(tmp_path, config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state"))
    first = assemble(config)
    with pytest.raises(ConfigError, match="in use by another agent"):
        assemble(config)
    assert first.run()["accepted"] == 1


@needs_mosquitto
def test_agent_killed_again_and_again_under_load_loses_no_accepted_count(
    tmp_path: Path, tiny_bundle: Path, broker: Mosquitto
) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201 - a failure must be repeatable
    rng = random.Random(seed)
    photos = write_photos(tmp_path / "photos", [n % 6 + 0.5 * (n % 5 == 0) for n in range(50)])
    rest = f'[uploads]\naudit_share = 0.0\nfolder = "{tmp_path / "up"}"\n'
    state = tmp_path / "state"
    text = config_text(
        bundle=tiny_bundle, source=photos, state=state, port=broker.port, camera="repeat = true", rest=rest
    )
    accepted: dict[str, dict[str, Any]] = {}
    with Subscriber(broker.port) as subscriber:
        for _ in range(8):
            process = AgentProcess.start(tmp_path, text)
            wanted = rng.randrange(1, 150)
            wait_until(lambda p=process, n=wanted: len(p.counts) >= n or p.process.poll() is not None)  # type: ignore[misc]  # defaults bind the loop's values
            process.kill()
            assert process.counts
            accepted.update({fields["event_id"]: fields for fields in process.counts})
        final = AgentProcess.start(tmp_path, text.replace("repeat = true", ""))
        assert final.wait() == 0, final.stderr
        accepted.update({fields["event_id"]: fields for fields in final.counts})
        wait_until(lambda: payloads(subscriber, "/status")[-1].get("totals"))
        received = [fields["event_id"] for fields in payloads(subscriber, "/count")]
    file, rescue = open_outbox(state / "outbox.db", 16 << 20)
    queued = {row.event_id for row in file.messages(0, 1_000_000).rows}
    file.close()
    assert rescue is None
    assert set(accepted) - set(received) - queued == set()
    assert final.totals["queued_messages"] == 0
    keys = {fields["image_key"] for fields in accepted.values()} - {None}
    assert keys
    assert all((tmp_path / "up" / key).is_file() for key in keys)


@needs_mosquitto
def test_agent_sigterm_ends_in_order_and_ctrl_c_does_not_reach_the_cameras(
    tmp_path: Path, tiny_bundle: Path, broker: Mosquitto
) -> None:
    photos = write_photos(tmp_path / "photos", [1, 2, 3])
    camera = "repeat = true\npause_s = 0.01"
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state", port=broker.port, camera=camera)
    with Subscriber(broker.port) as subscriber:
        process = AgentProcess.start(tmp_path, text)
        wait_until(lambda: len(process.counts) >= 5)
        assert process.terminate() == 0, process.stderr
        wait_until(lambda: payloads(subscriber, "/status")[-1]["state"] == "offline")
        assert payloads(subscriber, "/status")[-1]["totals"] == process.totals
        assert process.totals["accepted"] == process.totals["delivered"] == len(process.counts)


def test_agent_without_a_broker_keeps_its_counts_and_says_so(tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", [1, 2, 3])
    process = AgentProcess.start(tmp_path, config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state"))
    assert process.wait() == 0
    assert process.totals["accepted"] == process.totals["queued_messages"] == 3
    assert any("3 messages and 0 images stay in the outbox" in line for line in process.stderr)


def test_agent_tells_systemd_that_it_is_ready_and_stopping(
    tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        photos = write_photos(tmp_path / "photos", [1, 2])
        text = config_text(
            bundle=tiny_bundle, source=photos, state=tmp_path / "state", camera="repeat = true\npause_s = 0.05"
        )
        running = Running(assemble(load_text(tmp_path, text)))
        said: list[bytes] = []
        while said.count(b"WATCHDOG=1") < 3:
            said.append(systemd.recv(256))
        running.stop()
        said += drain(systemd)
    assert said.count(b"READY=1") == 1
    assert any(line.startswith(b"STOPPING=1\nEXTEND_TIMEOUT_USEC=") for line in said)


def test_check_config_prints_values_with_origin_and_what_was_found(tmp_path: Path, tiny_bundle: Path) -> None:
    photos = write_photos(tmp_path / "photos", [1, 2])
    load_text(tmp_path, config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state"))
    file = str(tmp_path / "agent.toml")
    plain = CliRunner().invoke(agent_command, ["check-config", "--config", file])
    assert plain.exit_code == 0
    assert "robot.site" in plain.output
    assert "(default)" in plain.output
    assert "folder, 2 photos" in plain.output
    answer = CliRunner().invoke(agent_command, ["check-config", "--config", file, "--json"])
    fields = json.loads(answer.output)
    assert fields["ok"]
    assert {"key": "mqtt.keepalive_s", "value": 30, "origin": "default"} in fields["settings"]
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("change", "words", "code"),
    [
        (("[mqtt]", "[mqtt]\nhots = 'x'"), "Did you mean host?", 78),
        (('engine = "onnxruntime"', 'engine = "magic"'), "bundle.engine", 78),
        (("reconnect_max_s = 0.3", 'reconnect_max_s = 0.3\nusername = "u"\npassword_file = "none"'), "none", 78),
        (("restart_max_s = 0.2", 'restart_max_s = 0.2\n[records]\nfile = "none.csv"'), "none.csv", 65),
    ],
)
def test_check_config_what_is_wrong_is_named(
    tmp_path: Path, tiny_bundle: Path, change: tuple[str, str], words: str, code: int
) -> None:
    photos = write_photos(tmp_path / "photos", [1])
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state").replace(*change)
    (tmp_path / "agent.toml").write_text(text, encoding="utf-8")
    answer = CliRunner().invoke(agent_command, ["check-config", "--config", str(tmp_path / "agent.toml")])
    assert isinstance(answer.exception, BintallyError)
    assert answer.exception.exit_code == code
    assert words in str(answer.exception)


def test_agent_run_as_a_command_prints_one_message_and_the_exit_code(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "photos").mkdir()
    process = AgentProcess.start(
        tmp_path, config_text(bundle=tiny_bundle, source=tmp_path / "photos", state=tmp_path / "state")
    )
    assert process.wait() == 65
    said = [line for line in process.stderr if line.startswith("bintally: ")]
    assert len(said) == 1
    assert "holds no photos" in said[0]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["check-config", "--help"]])
def test_agent_help_teaches_with_an_example(arguments: list[str]) -> None:
    answer = CliRunner().invoke(agent_command, arguments)
    assert answer.exit_code == 0
    assert "bintally agent" in answer.output


def test_mosquitto_is_really_the_broker() -> None:
    if MOSQUITTO is None:
        pytest.skip("no mosquitto binary")
    assert "mosquitto" in subprocess.run([MOSQUITTO, "-h"], capture_output=True, text=True, check=False).stdout
