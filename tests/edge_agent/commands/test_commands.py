"""Commands to a real agent process through a real broker."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import bintally
from bundle.errors import ConfigError
from bundle.images import decode
from bundle.store import Store
from bundle.verify import load_bundle
from tests.edge_agent.commands.sending import Operator, fields
from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto
from tests.simulators.bundle_factory import make_bundle, spoil_golden, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")


class Site:
    """A broker, a robot that passes bins again and again, and an operator."""

    def __init__(self, folder: Path, bundle: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        source = write_photos(folder / "photos", [1, 2, 3])
        self.store = Store(folder / "store")
        self.first = self.store.activate(self.store.install(bundle).digest)
        uploads = f'[uploads]\naudit_share = 0.0\nfolder = "{folder / "up"}"\n'
        rest = f'{uploads}[commands]\nbundle_sources = ["{folder / "bundles"}"]\n'
        self.text = config_text(
            bundle=folder / "store",
            source=source,
            state=folder / "state",
            port=port,
            camera="repeat = true\npause_s = 0.05",
            rest=rest,
        )
        self.agent = AgentProcess.start(folder, self.text)
        self.operator = Operator(port)
        self.operator.wait_for_robot()

    def restart(self) -> None:
        """Kill the agent and start it again."""
        self.agent.kill()
        before = len(self.operator.of("/status"))
        self.agent = AgentProcess.start(self.folder, self.text)
        wait_until(lambda: any(f["state"] != "offline" for f in self.operator.of("/status")[before:]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with Mosquitto(folder, "allow_anonymous true\nmax_queued_messages 20000") as broker:
        made = Site(folder, tiny_bundle, broker.port)
        yield made
        with made.operator:
            assert made.agent.terminate() == 0


def test_ping_is_accepted_and_answered(site: Site) -> None:
    site.operator.send("ping", fields("ping-0001"))
    final = site.operator.final("ping-0001")
    assert [result["state"] for result in site.operator.results("ping-0001")] == ["accepted", "succeeded"]
    assert final["detail"]["bundle"].startswith("tiny-")
    assert final["command"] == "ping"


def test_same_command_a_hundred_times_is_carried_out_once(site: Site) -> None:
    content = fields("capture-100", bin_id="hundred", record=2)
    for _ in range(100):
        site.operator.send("capture", content)
    final = site.operator.final("capture-100")
    assert final["state"] == "succeeded"
    site.operator.send("ping", fields("after-the-hundred"))
    site.operator.final("after-the-hundred")
    assert len([count for count in site.operator.of("/count") if count["bin_id"] == "hundred"]) == 1
    finals = {json.dumps(result) for result in site.operator.results("capture-100") if result["state"] == "succeeded"}
    assert finals == {json.dumps(final)}


def test_capture_counts_the_bin_that_was_asked_for_against_its_record(site: Site) -> None:
    site.operator.send("capture", fields("capture-001", bin_id="A/7", record=0, frames=2))
    final = site.operator.final("capture-001")
    (count,) = [count for count in site.operator.of("/count") if count["bin_id"] == "A/7"]
    assert final["detail"]["event_id"] == count["event_id"]
    assert (count["record"], count["frames"]) == (0, 2)
    assert count["verdict"] in ("over", "unsure")
    assert site.operator.of("/bin/A%2F7")[-1]["event_id"] == count["event_id"]


def test_set_is_in_force_shown_and_outlives_a_restart(site: Site) -> None:
    site.operator.send("set", fields("set-00001", threshold=1.0, images_per_hour=5))
    assert site.operator.final("set-00001")["state"] == "succeeded"
    wait_until(lambda: site.operator.of("/status")[-1]["settings"] == {"threshold": 1.0, "images_per_hour": 5})
    wait_until(lambda: not site.operator.of("/count")[-1]["confident"])
    site.restart()
    wait_until(lambda: site.operator.of("/status")[-1]["settings"] == {"threshold": 1.0, "images_per_hour": 5})
    wait_until(lambda: not site.operator.of("/count")[-1]["confident"])
    site.operator.send("set", fields("set-00002", reset=["threshold", "images_per_hour"]))
    assert site.operator.final("set-00002")["detail"]["settings"] == {}
    wait_until(lambda: site.operator.of("/count")[-1]["confident"])
    site.operator.send("set", fields("set-00003", threshold=0.01))
    assert site.operator.final("set-00003")["reason"] == "threshold_too_low"


def test_snapshot_comes_as_a_message_or_as_an_object(site: Site) -> None:
    site.operator.send("snapshot", fields("snapshot-mqtt", max_side=64))
    detail = site.operator.final("snapshot-mqtt")["detail"]
    picture = decode(base64.b64decode(detail["jpeg_base64"]), name="snapshot")
    assert picture.shape[2] == 3
    site.operator.send("snapshot", fields("snapshot-store", to="store"))
    key = site.operator.final("snapshot-store")["detail"]["image_key"]
    wait_until(lambda: (site.folder / "up" / key).with_suffix(".json").exists())
    assert decode((site.folder / "up" / key).read_bytes(), name="snapshot").size
    site.operator.send("snapshot", fields("snapshot-nobody", camera="nobody"))
    assert site.operator.final("snapshot-nobody")["reason"] == "unknown_camera"


def test_refusals_say_why(site: Site) -> None:
    cases = {
        "expired-01": ("ping", fields("expired-01", age_s=700), "expired"),
        "future-001": ("ping", fields("future-001", age_s=-500), "future"),
        "unknown-01": ("selfdestruct", fields("unknown-01"), "unknown_command"),
        "invalid-01": ("ping", fields("invalid-01", robot="r2"), "invalid"),
        "lifetime-1": ("ping", fields("lifetime-1", life_s=1e6), "invalid"),
    }
    for name, content, _ in cases.values():
        site.operator.send(name, content)
    for command_id, (_, _, reason) in cases.items():
        assert site.operator.final(command_id)["reason"] == reason
        assert site.operator.final(command_id)["state"] == "refused"
        assert not [r for r in site.operator.results(command_id) if r["state"] == "accepted"]


def test_retained_command_is_refused_at_once_and_again_at_the_next_connect(site: Site) -> None:
    site.operator.send("ping", fields("retained-1"), retain=True)
    assert site.operator.final("retained-1")["reason"] == "retained"
    before = len(site.operator.results("retained-1"))
    site.restart()
    wait_until(lambda: len(site.operator.results("retained-1")) > before)
    assert {result["state"] for result in site.operator.results("retained-1")} == {"refused"}
    site.operator.send("ping", b"", retain=True)


def test_command_for_another_robot_is_not_heard(site: Site) -> None:
    site.operator.send("ping", fields("not-for-us"), base="bintally/v1/wh1/r2")
    site.operator.send("ping", fields("for-us-001"))
    site.operator.final("for-us-001")
    assert site.operator.results("not-for-us") == []


def test_same_command_across_a_restart_is_answered_and_not_carried_out_again(site: Site) -> None:
    content = fields("capture-twice", bin_id="twice")
    site.operator.send("capture", content)
    site.operator.final("capture-twice")
    site.restart()
    before = len(site.operator.results("capture-twice"))
    site.operator.send("capture", content)
    wait_until(lambda: len(site.operator.results("capture-twice")) > before)
    assert site.operator.results("capture-twice")[-1]["state"] == "succeeded"
    assert len({count["event_id"] for count in site.operator.of("/count") if count["bin_id"] == "twice"}) == 1


def variant(folder: Path, **changes: object) -> str:
    """Make a bundle that differs from the first one; return its digest."""
    make_bundle(folder)
    content = load_bundle(folder).manifest.model_dump(mode="json")
    write_manifest(folder, {**content, **changes})
    return load_bundle(folder).digest


def test_deploy_counts_on_with_the_new_bundle_and_rollback_with_the_old_one(site: Site) -> None:
    pixels = {**site.first.manifest.preprocessing.model_dump(mode="json"), "interpolation": "linear"}
    folder = site.folder / "bundles" / "second"
    digest = variant(folder, version="2.0.0", preprocessing=pixels, created="2026-05-01T00:00:00Z")
    content = fields("deploy-0001", source=str(folder), digest=digest)
    site.operator.send("deploy", content)
    assert site.operator.final("deploy-0001")["state"] == "succeeded"
    wait_until(lambda: site.operator.of("/count")[-1]["bundle"].startswith("tiny-2.0.0"))
    assert site.operator.of("/status")[-1]["bundle"].startswith("tiny-2.0.0")
    assert site.store.current().digest == digest
    site.operator.send("deploy", {**content, "command_id": "deploy-again"})
    assert "already" in site.operator.final("deploy-again")["words"]

    by_hand = variant(site.folder / "by-hand", version="2.1.0", created="2026-05-02T00:00:00Z")
    site.store.activate(site.store.install(site.folder / "by-hand").digest)  # and the agent counts on
    site.operator.send("deploy", fields("deploy-hand", source=str(folder), digest=by_hand))
    assert site.operator.final("deploy-hand")["detail"]["before"] == digest
    wait_until(lambda: site.operator.of("/count")[-1]["bundle"].startswith("tiny-2.1.0"))
    unused = variant(site.folder / "unused", version="2.2.0", created="2026-05-03T00:00:00Z")
    site.store.activate(site.store.install(site.folder / "unused").digest)
    site.operator.send("rollback", fields("rollback-hand"))
    assert site.operator.final("rollback-hand")["detail"] == {
        **site.operator.final("deploy-hand")["detail"],
        "before": by_hand,
    }
    assert site.store.digests == (by_hand, unused)

    older = variant(site.folder / "bundles" / "older", version="0.9.0")
    site.operator.send("deploy", fields("deploy-older", source=str(site.folder / "bundles" / "older"), digest=older))
    assert site.operator.final("deploy-older")["reason"] == "older_bundle"

    site.operator.send("rollback", fields("rollback-01"))
    assert site.operator.final("rollback-01")["detail"]["digest"] == unused
    site.store.activate(site.first.digest)
    site.operator.send("deploy", fields("deploy-first", source=str(folder), digest=site.first.digest))
    assert site.operator.final("deploy-first")["state"] == "succeeded"
    wait_until(lambda: site.operator.of("/count")[-1]["bundle"].startswith("tiny-1.0.0"))


def test_deploy_of_what_is_not_right_leaves_the_old_bundle_counting(site: Site) -> None:
    folder = site.folder / "bundles" / "broken"
    digest = variant(folder, version="3.0.0")
    spoiled = site.folder / "bundles" / "spoiled"
    variant(spoiled, version="3.1.0")
    spoil_golden(spoiled, "cpu")
    spoil_golden(spoiled, "reference")
    cases = {
        "deploy-digest": (str(folder), "0" * 64, "bundle_refused"),
        "deploy-nowhere": (str(site.folder / "bundles" / "nothing"), digest, "download_failed"),
        "deploy-outside": (str(site.folder), digest, "source_not_allowed"),
        "deploy-upwards": (f"{site.folder}/bundles/../bundles/broken", digest, "source_not_allowed"),
        "deploy-golden": (str(spoiled), load_bundle(spoiled).digest, "bundle_refused"),
    }
    for command_id, (source, asked, reason) in cases.items():
        site.operator.send("deploy", fields(command_id, source=source, digest=asked))
        assert site.operator.final(command_id)["reason"] == reason
    (folder / "model.cpu.onnx").write_bytes(b"x" * (folder / "model.cpu.onnx").stat().st_size)
    site.operator.send("deploy", fields("deploy-damaged", source=str(folder), digest=digest))
    assert site.operator.final("deploy-damaged")["reason"] == "bundle_refused"
    assert site.store.current().digest == site.first.digest
    assert load_bundle(spoiled).digest not in {folder.name for folder in (site.folder / "store" / "bundles").iterdir()}
    before = len(site.operator.of("/count"))
    wait_until(lambda: len(site.operator.of("/count")) > before + 3)
    assert site.operator.of("/count")[-1]["bundle"].startswith("tiny-1.0.0")
    assert not (site.folder / "state" / "bundle.part").exists()


def test_send_prints_results_and_exits_by_them(site: Site, tmp_path: Path) -> None:
    def send(*words: str) -> tuple[int, list[dict[str, Any]]]:
        done = CliRunner().invoke(bintally.cli, ["send", "--port", str(site.port), "--json", *words])
        return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]

    code, results = send("wh1/r1", "capture", "bin_id=01044", "record=2", "--wait", "60")
    assert (code, results[-1]["detail"]["bin_id"]) == (0, "01044")
    assert [result["state"] for result in results] == ["accepted", "succeeded"]
    again = ["capture", "bin_id=01044", "--command-id"]
    assert send("wh1/r1", *again, results[0]["command_id"])[1] == results[-1:]
    code, results = send("wh1/r1", *again, "never-sent-before")
    assert (code, results[-1]["reason"]) == (3, "expired")
    code, results = send("wh1/r1", "set", "threshold=0.1")
    assert (code, results[-1]["reason"]) == (3, "threshold_too_low")
    assert send("wh1/nobody", "ping", "--wait", "1") == (75, [])
    assert send("wh1/r1", "ping", "--wait", "0") == (0, [])
    (tmp_path / "wrong.json").write_text("{", encoding="utf-8")
    for words, wrong in (
        (["wh1/r1", "capture"], "bin_id"),
        (["wh1/r1", "ping", "x=1"], "x=1"),
        (["r1", "ping"], "SITE/ROBOT"),
        (["wh1/r1", "recalibrate", f"labels=@{tmp_path / 'wrong.json'}"], "labels"),
    ):
        error = CliRunner().invoke(bintally.cli, ["send", *words]).exception
        assert isinstance(error, ConfigError)
        assert wrong in str(error)


def test_flood_of_a_thousand_a_second_is_refused_and_counting_goes_on(site: Site) -> None:
    before = len(site.operator.of("/count"))
    content = [fields(f"flood-{number:06d}") for number in range(3000)]
    for one in content:
        site.operator.send("ping", one)
    wait_until(lambda: site.operator.of("/telemetry") and _drops(site).get("commands_refused", 0) > 2500)
    accepted = {r["command_id"] for r in site.operator.of("/result") if r["state"] == "accepted"}
    done = [r["command_id"] for r in site.operator.of("/result") if r["state"] == "succeeded"]
    assert 50 <= len([name for name in accepted if name.startswith("flood")]) < 500
    assert len(done) - len(set(done)) <= 200  # answers may repeat, and come from memory
    assert len(site.operator.of("/count")) > before
    wait_until(lambda: _pings(site), timeout_s=60, what="a ping after the flood")


def _drops(site: Site) -> dict[str, int]:
    drops: dict[str, int] = site.operator.of("/telemetry")[-1]["drops"]
    return drops


def _pings(site: Site) -> bool:
    """Ping once more: what is left of the flood may cost a ping its token, and its refusal an answer."""
    site.operator.send("ping", fields(f"after-flood-{time.monotonic_ns()}"))
    done = [result["command_id"] for result in site.operator.of("/result") if result["state"] == "succeeded"]
    return any(command_id.startswith("after-flood") for command_id in done)


@pytest.mark.parametrize(
    ("name", "more"),
    [("snapshot", {"camera": "camera"}), ("capture", {"bin_id": "killed", "frames": 32}), ("ping", {})],
)
def test_kill_between_acceptance_and_result_gives_one_result(site: Site, name: str, more: dict[str, Any]) -> None:
    command_id = f"killed-{name}"
    content = fields(command_id) | more
    site.operator.send(name, content)
    wait_until(lambda: site.operator.results(command_id))
    site.restart()
    final = site.operator.final(command_id)
    site.operator.send(name, content)
    site.operator.send("ping", fields(f"after-{command_id}"))
    site.operator.final(f"after-{command_id}")
    finals = {r["event_id"] for r in site.operator.results(command_id) if r["state"] in ("succeeded", "failed")}
    assert finals == {final["event_id"]}
    assert final["state"] == "succeeded" or final["reason"] == "interrupted"
    assert len({count["event_id"] for count in site.operator.of("/count") if count["bin_id"] == "killed"}) <= 1


def test_recalibrate_runs_the_job_and_gives_one_result(site: Site) -> None:
    asked = {"min_visits": 20, "max_visits": 20, "collect_s": 60, "watch_visits": 0, "watch_s": 0, "ranges": False}
    site.operator.send("recalibrate", fields("recalibrate-1", **asked))
    wait_until(lambda: len(site.operator.results("recalibrate-1")) >= 2, timeout_s=120)
    site.operator.send("rollback", fields("rollback-busy"))
    assert site.operator.final("rollback-busy")["reason"] == "busy"
    site.restart()  # the job goes on
    final = site.operator.final("recalibrate-1", timeout_s=200)
    states = [result["state"] for result in site.operator.results("recalibrate-1")]
    assert states[0] == "accepted"
    assert "running" in states
    assert len([state for state in states if state not in ("accepted", "running")]) == 1
    # Three bins again and again are nothing to fit a bundle to.
    assert final["reason"] == "not_better"
    wait_until(lambda: not (site.folder / "state" / "visits").exists())
