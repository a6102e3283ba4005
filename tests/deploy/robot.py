"""A robot as the README makes one, on a machine under a real systemd, with a broker and somebody who listens."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.edge_agent.waiting import wait_until
from tests.faults.kills import read_outbox
from tests.simulators.authority import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.machine import Machine

UNIT = "bintally-agent"
STATE = "/var/lib/bintally/agent"
PASSWORD = "/etc/bintally/credentials/mqtt-password"
INSTALL = ("sh", "/srv/bintally/deploy/install.sh", "--wheelhouse", "/srv/wheelhouse")
CONFIG = """
[robot]
site = "wh1"
id = "robot-1"
[bundle]
path = "/var/lib/bintally/bundles"
[[cameras]]
source = "/srv/photos"
repeat = true
pause_s = 0.05
restart_max_s = 1.0
[state]
path = "/var/lib/bintally/agent"
[uploads]
folder = "/var/lib/bintally/review"
[telemetry]
interval_s = 1.0
[mqtt]
host = "127.0.0.1"
reconnect_max_s = 1.0
"""
BY_PASSWORD = 'username = "robot-1"\npassword_file = "mqtt-password"\n'
_BROKER = """
[Service]
ExecStart=/usr/bin/env PATH=/usr/sbin:/usr/bin mosquitto -c /srv/broker/mosquitto.conf
"""
_BROKER_CONFIG = """
user root
listener 1883 127.0.0.1
password_file /srv/broker/passwords
allow_anonymous false
persistence true
persistence_location /srv/broker/
max_queued_messages 1000000
"""


class Robot:
    """What an engineer and a listener see of it.

    Args:
        machine: Booted.
        folder: For what is heard.
    """

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self._heard = folder / "heard"
        self._ear: subprocess.Popen[bytes] | None = None

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program as the machine's root."""
        return self.machine.run(*command, check=check)

    def as_service_user(self, *command: str) -> str:
        """Run a program as the service's user, outside its sandbox: what `sudo -u bintally` does."""
        return self.run("runuser", "-u", "bintally", "--", *command).stdout

    def configure(self, text: str) -> None:
        """Write the configuration, which keeps its owner and its mode."""
        self.machine.path("/etc/bintally/agent.toml").write_text(text, encoding="utf-8")

    def set_password(self, word: str) -> None:
        """Change the robot's password at the broker, not on the robot."""
        self.run("mosquitto_passwd", "-b", "/srv/broker/passwords", "robot-1", word)
        self.run("systemctl", "restart", "broker")

    def add_broker(self) -> None:
        """A broker with two users, and somebody who hears all and forgets nothing."""
        folder = self.machine.path("/srv/broker")
        folder.mkdir()
        (folder / "mosquitto.conf").write_text(_BROKER_CONFIG, encoding="utf-8")
        (folder / "passwords").touch(mode=0o600)
        self.run("mosquitto_passwd", "-b", "/srv/broker/passwords", "ear", "ear")
        self.machine.path("/run/systemd/system/broker.service").write_text(_BROKER, encoding="utf-8")
        self.run("systemctl", "daemon-reload")
        self.set_password("sesame")
        say = ("mosquitto_pub", "-u", "ear", "-P", "ear", "-t", "bintally/ear", "-m", "{}")
        wait_until(lambda: self.run(*say, check=False).returncode == 0, what="the broker")
        user = ["-u", "ear", "-P", "ear", "-i", "ear"]
        ear = ["mosquitto_sub", *user, "-c", "-q", "1", "-t", "bintally/#", "-F", "%t %p"]
        with self._heard.open("wb") as heard:
            self._ear = subprocess.Popen(
                ["nsenter", "--target", str(self.machine.leader), "--net", *ear],
                stdout=heard,
                stderr=subprocess.DEVNULL,
            )
        wait_until(lambda: self.run(*say).returncode == 0 and self.heard("/ear"), what="somebody who listens")

    def follow_the_readme(self) -> None:
        """Install, bring a bundle and a configuration, ask the doctor, enable."""
        self.run("cp", "-r", "/srv/bins/bin-images", "/srv/photos")
        assert "sudo bintally-doctor" in self.run(*INSTALL).stdout
        self.run("install", "-d", "-m", "700", "/srv/closed")  # where the service may not look
        self.run("cp", "-r", "/srv/bintally/demo/bundle", "/srv/closed/bundle")
        bundle = ("bintally", "bundle", "install", "/srv/closed/bundle", "--store", "/var/lib/bintally/bundles")
        assert "demo-" in self.run(*bundle).stdout
        self.configure(CONFIG + BY_PASSWORD)
        self.machine.path(PASSWORD).write_text("sesame", encoding="ascii")
        self.machine.path(PASSWORD).chmod(0o600)
        doctor = self.run("bintally-doctor")
        assert "FAIL" not in doctor.stdout
        assert "ok    broker" in doctor.stdout
        self.run("systemctl", "enable", "--now", UNIT)

    def take_certificates(self, folder: Path) -> None:
        """New ones of an authority made in `folder`, renamed over those before; then a new connection."""
        authority = Authority(folder)
        authority.run("server", "localhost", "127.0.0.1")
        authority.run("client", "wh1/robot-1")
        shutil.copytree(folder, self.machine.path("/srv/broker/certificates"), dirs_exist_ok=True)
        tls = self.machine.path("/etc/bintally/tls")
        for source, name in (("ca.crt", "ca.crt"), ("wh1@robot-1.crt", "robot.crt"), ("wh1@robot-1.key", "robot.key")):
            shutil.copyfile(folder / source, tls / "new")
            self.run("chgrp", "bintally", "/etc/bintally/tls/new")
            (tls / "new").chmod(0o640)
            (tls / "new").rename(tls / name)
        self.run("systemctl", "restart", "broker")

    def deafen(self) -> None:
        """End the listener."""
        if self._ear is not None:
            self._ear.kill()
            self._ear.wait(10)

    def heard(self, end: str) -> list[dict[str, Any]]:
        """Messages whose topic ends like this, in the order of their arrival."""
        lines = self._heard.read_text(encoding="utf-8").split("\n")[:-1]
        topics = (line.partition(" ") for line in lines)
        return [json.loads(payload) for topic, _, payload in topics if topic.endswith(end) and payload]

    def delivered(self) -> set[str]:
        """Counts that the listener has."""
        return {count["event_id"] for count in self.heard("/count")}

    def queued(self) -> set[str]:
        """Counts that lie in the outbox."""
        return read_outbox(self.machine.path(STATE)).counts

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.run("systemctl", "show", UNIT, f"--property={name}", "--value").stdout.strip()

    @property
    def pid(self) -> int:
        """The service's main process, as the machine numbers it; 0 if it does not run."""
        return int(self.show("MainPID"))

    def processes(self) -> list[int]:
        """All of the service's processes."""
        words = self.run("systemctl", "status", UNIT, "--no-pager", "--full").stdout
        return [int(found) for found in re.findall(r"[├└]─\s*(\d+) ", words)]

    def systemctl(self, word: str, *, check: bool = True) -> int:
        """start, stop, restart ..., with the exit code."""
        return self.run("systemctl", word, UNIT, check=check).returncode

    def well(self) -> int:
        """Bring it up as it was installed, and wait until it delivers.

        Returns:
            Its process.
        """
        self.configure(CONFIG + BY_PASSWORD)
        self.run("systemctl", "start", "broker")
        self.systemctl("start")
        self.wait_for_counts()
        return self.pid

    def wait_for_counts(self, more: int = 5) -> None:
        """Wait until so many more counts have arrived."""
        before = len(self.delivered())
        wait_until(lambda: len(self.delivered()) >= before + more, what="more counts")

    def journal(self, after: str = "") -> list[dict[str, Any]]:
        """Entries of the service's journal, after a cursor."""
        since = [f"--after-cursor={after}"] if after else []
        done = self.run("journalctl", "--unit", UNIT, "--output=json", "--no-pager", *since)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def cursor(self) -> str:
        """Where the journal ends now."""
        return str(self.journal()[-1]["__CURSOR"])


def fill_wheelhouse(repository: Path, folder: Path) -> str | None:
    """Download the robot's pinned packages for the system's Python, or copy them from $BINTALLY_WHEELHOUSE.

    Returns:
        Why that was not possible, or None.
    """
    if "BINTALLY_WHEELHOUSE" in os.environ:
        shutil.copytree(os.environ["BINTALLY_WHEELHOUSE"], folder)
        return None
    asked = ["/usr/bin/python3", "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
    version = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    pins = repository / "requirements/edge.txt"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--python-version", version, "--requirement", str(pins), "--dest", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stderr[-500:] if done.returncode else None
