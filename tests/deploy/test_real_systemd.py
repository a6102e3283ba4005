"""The unit, the installer and the sandbox under a real systemd.

    sudo python -m pytest -m soak tests/deploy/test_real_systemd.py

A robot is installed as the README says, on a machine of its own (tests/deploy/machine.py), with rendered bins as its
camera and the shipped bundle. The tests share it; each first brings it up as it was installed, and the last removes it.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from demo.dataset import write_dataset
from tests.deploy.machine import Machine, why_not
from tests.deploy.robot import BY_PASSWORD, CONFIG, INSTALL, PASSWORD, STATE, UNIT, Robot, fill_wheelhouse
from tests.edge_agent.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.soak
_PHOTOS = 12
_OWN = ("/run/bintally", "/var/cache/bintally", "/var/lib/bintally")
_OWN_TEMPORARY = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 - each a mount of the service's own
_TLS = """port = 8883
[mqtt.tls]
ca_file = "tls/ca.crt"
cert_file = "tls/robot.crt"
key_file = "tls/robot.key"
"""


@pytest.fixture(scope="module")
def robot(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    missing = why_not()
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("machine")
    wheels, bins = folder / "wheels", folder / "bins"
    missing = fill_wheelhouse(repository, wheels)
    if missing:
        pytest.skip(f"the pinned packages cannot be had: {missing}")
    write_dataset(bins, count=_PHOTOS, seed=1, workers=1)
    for shown in (wheels, bins):
        shown.chmod(0o755)
    with Machine(folder, {"/srv/bintally": repository, "/srv/wheelhouse": wheels, "/srv/bins": bins}) as machine:
        made = Robot(machine, folder)
        try:
            made.add_broker()
            made.follow_the_readme()
            yield made
        finally:
            made.deafen()


def test_service_is_ready_counts_and_says_so(robot: Robot) -> None:
    pid = robot.well()
    assert (robot.show("ActiveState"), robot.show("NRestarts"), robot.show("Type")) == ("active", "0", "notify")
    wait_until(lambda: "counts" in robot.show("StatusText"), what="a status line")
    assert robot.show("StatusText").startswith("online: ")
    assert "Status: " in robot.run("systemctl", "status", UNIT).stdout
    assert {count["bin_id"] for count in robot.heard("/count")} <= {f"{number:06d}" for number in range(_PHOTOS)}
    wait_until(lambda: list(robot.machine.path("/var/lib/bintally/review").rglob("*.jpg")), what="an image for people")
    lines = [entry for entry in robot.journal() if entry.get("_PID") == str(pid)]
    assert lines
    assert {"at", "level", "logger", "message"} <= json.loads(lines[0]["MESSAGE"]).keys()
    assert lines[0]["PRIORITY"] == "6"
    # The doctor beside the running agent, and as the user alone, who may not read the service's secrets.
    before = robot.pid
    assert "active, watchdog 45s" in robot.run("bintally-doctor").stdout
    assert robot.pid == before
    assert robot.machine.path("/run/bintally").is_dir()


def test_doctor_that_is_interrupted_leaves_nothing_running(robot: Robot) -> None:
    robot.well()
    # On free cores it takes less than a second.
    ended = robot.run("timeout", "--signal=INT", "--preserve-status", "0.3", "bintally-doctor", check=False)
    assert ended.returncode == 130, ended.stdout
    assert not robot.machine.path("/run/systemd/system/bintally-doctor.service").exists()
    shown = robot.run("systemctl", "show", "bintally-doctor", "--property=LoadState,ActiveState").stdout.split()
    assert set(shown) == {"LoadState=not-found", "ActiveState=inactive"}


def test_sandbox_from_inside_allows_the_state_and_nothing_else(robot: Robot) -> None:
    robot.well()
    drop_in = robot.machine.path(f"/run/systemd/system/{UNIT}.service.d/probe.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    probe = "/opt/bintally/current/bin/python /srv/bintally/tests/deploy/probe.py"
    drop_in.write_text(f"[Service]\nExecStartPre={probe} {STATE}/inside.json\n", encoding="ascii")
    robot.run("mknod", "-m", "666", "/dev/forbidden", "c", "10", "229")
    robot.run("systemctl", "daemon-reload")
    robot.systemctl("restart")
    drop_in.unlink()
    robot.run("systemctl", "daemon-reload")
    inside = json.loads(robot.machine.path(f"{STATE}/inside.json").read_bytes())
    assert set(inside["writable"]) == {*_OWN_TEMPORARY, *_OWN}
    assert set(inside["may"]) == {"open /dev/null", "lower the own priority", "read the own password"}

    # The same user outside the sandbox may more: it is the sandbox that refuses.
    robot.as_service_user(*probe.split(), f"{STATE}/outside.json")
    outside = json.loads(robot.machine.path(f"{STATE}/outside.json").read_bytes())
    assert {"see other processes", "list /home", "set the user bit", "another personality"} <= set(outside["may"])


def test_process_runs_without_privileges_and_within_limits(robot: Robot) -> None:
    pid = robot.well()
    status = dict(
        line.split(":\t", 1) for line in robot.run("cat", f"/proc/{pid}/status").stdout.splitlines() if ":\t" in line
    )
    first = robot.run("grep", "Seccomp_filters", "/proc/1/status").stdout.split()[1]
    user = robot.run("id", "--user", "bintally").stdout.strip()
    assert set(status["Uid"].split()) == {user}
    assert user != "0"
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["Seccomp_filters"]) > int(first), "nspawn's own filters alone"
    # A root without CAP_SYS_RESOURCE cannot lower it, and systemd goes on without.
    lowered = robot.run("setpriv", "--dump").stdout.count("sys_resource") > 0
    scores = [robot.run("cat", f"/proc/{one}/oom_score_adj").stdout.strip() for one in robot.processes()]
    assert sorted(scores) == sorted(["-200" if lowered else "0", "500"])
    assert robot.show("MemoryMax") == str(2 << 30)
    assert int(robot.show("MemoryCurrent")) > 10 << 20
    assert int(robot.show("TasksCurrent")) > 1
    folder = robot.machine.path(f"/run/credentials/{UNIT}.service")
    assert {(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()} == {
        ("mqtt-password", 0o400),
        ("aws-credentials", 0o400),
    }
    judged = robot.run("systemd-analyze", "security", "--no-pager", UNIT, check=False).stdout
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged)
    assert exposure is not None
    assert float(exposure[1]) <= 2.0


def test_killed_while_the_broker_is_away_goes_on_and_loses_nothing(robot: Robot) -> None:
    pid = robot.well()
    robot.run("systemctl", "stop", "broker")
    wait_until(lambda: len(robot.queued()) >= 20, what="a queue")
    robot.run("kill", "-9", str(pid))
    waiting = robot.queued()
    assert len(waiting) >= 20
    wait_until(lambda: robot.show("ActiveState") == "active" and robot.pid not in (0, pid), what="a restart")
    robot.run("systemctl", "start", "broker")
    wait_until(lambda: waiting <= robot.delivered(), what="what was queued at the kill")
    assert int(robot.show("NRestarts")) >= 1
    _assert_no_photo_is_missing(robot)


def _assert_no_photo_is_missing(robot: Robot) -> None:
    """Counts in the order of their ids: each is of the photo after the one before, or of the first after a start."""
    by_id = {count["event_id"]: int(count["bin_id"]) for count in robot.heard("/count")}
    order = [photo for _, photo in sorted(by_id.items())]
    holes = [pair for pair in itertools.pairwise(order) if pair[1] not in (0, (pair[0] + 1) % _PHOTOS)]
    assert not holes


def test_hang_is_ended_by_the_watchdog_and_the_service_starts_again(robot: Robot) -> None:
    pid, start = robot.well(), robot.cursor()
    robot.run("kill", "-STOP", str(pid))
    began_s = time.monotonic()
    wait_until(lambda: robot.pid not in (0, pid), timeout_s=100, what="a restart")
    assert time.monotonic() - began_s > 10
    said = " ".join(str(entry["MESSAGE"]) for entry in robot.journal(start))
    assert "Watchdog timeout" in said
    assert "Failed with result 'watchdog'" in said
    robot.wait_for_counts()
    _assert_no_photo_is_missing(robot)


def test_wrong_configuration_is_told_and_not_tried_again(robot: Robot) -> None:
    robot.well()
    start = robot.cursor()
    robot.configure(CONFIG.replace("pause_s", "pauze_s") + BY_PASSWORD)
    assert robot.systemctl("restart", check=False) != 0
    status = robot.run("systemctl", "status", UNIT, check=False).stdout
    assert "status=78" in status
    assert "cameras[0].pauze_s is not a known key" in status
    assert "Did you mean pause_s?" in status
    ended_s = time.monotonic()
    wait_until(lambda: time.monotonic() - ended_s > 8, what="longer than RestartSec")
    assert (robot.show("ActiveState"), robot.show("NRestarts")) == ("failed", "0")
    assert not [entry for entry in robot.journal(start) if "Scheduled restart" in str(entry["MESSAGE"])]
    robot.well()


def test_stop_and_restart_are_quick_with_a_broker_and_without(robot: Robot) -> None:
    for broker in ("start", "stop"):
        pid = robot.well()
        robot.run("systemctl", broker, "broker")
        began_s = time.monotonic()
        assert robot.systemctl("restart") == 0
        assert robot.pid not in (0, pid)
        start = robot.cursor()
        assert robot.systemctl("stop") == 0
        assert time.monotonic() - began_s < 90, "twice TimeoutStopSec"
        assert robot.show("Result") == "success"
        said = " ".join(str(entry["MESSAGE"]) for entry in robot.journal(start))
        assert "SIGKILL" not in said
        assert "timed out" not in said


def test_capture_process_that_eats_the_memory_goes_alone(robot: Robot) -> None:
    pid = robot.well()
    photo = robot.machine.path("/srv/photos/000005.jpg")
    good = photo.read_bytes()
    start = robot.cursor()
    robot.run("systemctl", "set-property", "--runtime", UNIT, "MemoryHigh=infinity", "MemoryMax=170M")
    _replace(photo, cv2.imencode(".jpg", np.full((6000, 6600, 3), 120, np.uint8))[1].tobytes())  # 119 MB when decoded
    try:
        wait_until(
            lambda: "the capture process died twice at this picture" in str(robot.journal(start)),
            what="the kernel's choice",
        )
    finally:
        _replace(photo, good)
    wait_until(lambda: "is back" in str(robot.journal(start)), what="the camera")
    robot.wait_for_counts()
    assert robot.pid == pid
    assert robot.show("ActiveState") == "active"
    robot.run("systemctl", "revert", UNIT)


def _replace(photo: Path, content: bytes) -> None:
    """At once: a photo that is read half would be refused."""
    whole = photo.with_suffix(".new")
    whole.write_bytes(content)
    whole.rename(photo)


def test_certificates_are_taken_without_a_restart_and_passwords_with_one(robot: Robot, tmp_path: Path) -> None:
    robot.well()
    config = robot.machine.path("/srv/broker/mosquitto.conf")
    plain = config.read_text(encoding="utf-8")
    folder = "/srv/broker/certificates"
    config.write_text(
        f"{plain}listener 8883 127.0.0.1\ncafile {folder}/ca.crt\ncertfile {folder}/server.crt\n"
        f"keyfile {folder}/server.key\nrequire_certificate true\nuse_identity_as_username true\n",
        encoding="utf-8",
    )
    robot.take_certificates(tmp_path / "first")
    robot.configure(CONFIG + _TLS)
    robot.systemctl("restart")
    robot.wait_for_counts()
    pid = robot.pid
    robot.take_certificates(tmp_path / "second")  # of another authority: neither side takes the first any more
    robot.wait_for_counts()
    assert robot.pid == pid
    assert "ok    broker" in robot.run("bintally-doctor").stdout

    config.write_text(plain, encoding="utf-8")
    robot.set_password("new")
    robot.machine.path(PASSWORD).write_text("new", encoding="ascii")
    robot.configure(CONFIG + BY_PASSWORD)
    robot.systemctl("restart")
    robot.wait_for_counts()


def test_installer_again_upgrade_and_removal_keep_counts(robot: Robot, repository: Path) -> None:
    pid = robot.well()
    assert "done" in robot.run(*INSTALL).stdout
    assert robot.pid == pid, "nothing changed, so nothing is restarted"

    shutil.copytree(
        repository,
        robot.machine.path("/srv/next"),
        ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "benchmarks", "runs"),
    )
    version = robot.machine.path("/srv/next/bundle/version.py")
    version.write_text(
        re.sub('VERSION = ".*"', 'VERSION = "9.9.9"', version.read_text(encoding="utf-8")), encoding="utf-8"
    )
    robot.run("systemctl", "stop", "broker")
    wait_until(lambda: len(robot.queued()) >= 5, what="a queue")
    upgrade = [word.replace("/srv/bintally", "/srv/next") for word in INSTALL]
    robot.run(*upgrade, "--no-start")
    assert robot.pid == pid
    robot.run(*upgrade)
    assert robot.pid not in (0, pid), "what an earlier run installed is restarted as well"
    assert "9.9.9" in robot.run("/opt/bintally/current/bin/bintally", "--version").stdout
    assert not robot.machine.path("/opt/bintally/not-restarted").exists()
    waiting = robot.queued()
    assert len(waiting) >= 5
    assert robot.machine.path("/etc/bintally/agent.toml").read_text(encoding="utf-8") == CONFIG + BY_PASSWORD

    robot.run("sh", "/srv/next/deploy/uninstall.sh")
    assert robot.show("LoadState") == "not-found"
    assert waiting <= robot.queued()
    robot.run(*INSTALL)
    robot.run("systemctl", "start", "broker")
    wait_until(lambda: waiting <= robot.delivered(), what="what was queued before the upgrade")

    hidden = "/home/python3"  # as pyenv's are: the unit's ProtectHome hides it
    robot.run("cp", "/usr/bin/python3", hidden)
    refused = robot.run(*INSTALL, "--python", hidden, check=False)
    assert refused.returncode != 0
    assert "where the service cannot see it" in refused.stderr

    robot.run("sh", "/srv/bintally/deploy/uninstall.sh", "--purge")
    left = [
        path for path in ("/etc/bintally", "/var/lib/bintally", "/opt/bintally") if robot.machine.path(path).exists()
    ]
    assert not left
    assert robot.run("id", "bintally", check=False).returncode != 0
