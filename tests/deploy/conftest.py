"""The broker as it is deployed: our configuration beside the distribution's, our access list, our certificates."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_agent.config import MqttSection
from tests.simulators.authority import Authority
from tests.simulators.broker import MOSQUITTO, MosquittoAsConfigured, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

# /etc/mosquitto/mosquitto.conf of Debian 12 and Ubuntu 22.04, without its comments; {0} stands for the machine.
_DISTRIBUTION = """pid_file {0}/run/mosquitto.pid
persistence true
persistence_location {0}/var/lib/mosquitto/
log_dest file {0}/var/log/mosquitto.log
include_dir {0}/etc/mosquitto/conf.d
"""
_USER = "mosquitto"


def _has_user() -> bool:
    """Whether mosquitto gives up root here, as it does on a robot's site."""
    return os.geteuid() == 0 and _USER in {entry.pw_name for entry in pwd.getpwall()}


class Site:
    """One site's authority and broker, put in place with the lines of docs/operations.md.

    Args:
        repository: The checkout.
        machine: Stands for the broker's machine; others may read it.
    """

    def __init__(self, repository: Path, machine: Path) -> None:
        self._repository, self._machine = repository, machine
        self.user = _USER if _has_user() else pwd.getpwuid(os.geteuid()).pw_name
        self._authority = Authority(machine / "certificates")
        self.certificates = self._authority.folder
        self.database = machine / "var/lib/mosquitto/mosquitto.db"
        self.log = machine / "var/log/mosquitto.log"
        for folder in ("etc/mosquitto/conf.d", "etc/mosquitto/certs", "var/lib/mosquitto", "var/log", "run"):
            (machine / folder).mkdir(parents=True)
            if folder.startswith(("var", "run")) and _has_user():
                shutil.chown(machine / folder, _USER)
        main = machine / "etc/mosquitto/mosquitto.conf"
        lone_root = "user root\n" if os.geteuid() == 0 and not _has_user() else ""
        main.write_text(lone_root + _DISTRIBUTION.format(machine), encoding="utf-8")
        self.run("server", "localhost", "127.0.0.1")
        self.broker = MosquittoAsConfigured(main, free_port())
        self._move(machine / "etc/mosquitto/conf.d/bintally.conf")

    def _move(self, config: Path) -> None:
        """To this machine's folder and a free port, and quicker with its saves."""
        text = config.read_text(encoding="utf-8")
        changes = {
            "listener 8883\n": f"listener {self.broker.port} 127.0.0.1\n",
            "/etc/mosquitto/": f"{self._machine}/etc/mosquitto/",
            "autosave_interval 5": "autosave_interval 1",
        }
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        config.write_text(text, encoding="utf-8")

    def run(self, *words: str, days: int = 365) -> None:
        """One command of certificates.sh; what the broker reads is copied to it."""
        self._authority.run(*words, days=days)
        if words[0] in ("server", "revoke"):
            self._copy()

    def _copy(self) -> None:
        section = (self._repository / "docs/operations.md").read_text(encoding="utf-8").split("## The broker")[1]
        lines = re.findall(r"^ {4}(install .*)$", section, re.MULTILINE)
        assert lines
        for line in lines:
            words = [word.replace("/etc/mosquitto", f"{self._machine}/etc/mosquitto") for word in line.split()]
            words = [re.sub(r"^certificates/", f"{self.certificates}/", word) for word in words]
            if "bintally.conf" in line and Path(words[-1]).exists():
                continue  # it was moved
            if not _has_user() and "-o" in words:
                del words[words.index("-o") : words.index("-o") + 2]
            subprocess.run(words, cwd=self._repository, check=True)

    def settings(self, name: str, **others: object) -> MqttSection:
        """What a client with this certificate configures."""
        stem = self.certificates / name.replace("/", "@")
        tls = {"ca_file": self.certificates / "ca.crt", "cert_file": f"{stem}.crt", "key_file": f"{stem}.key"}
        return MqttSection.model_validate({"host": "localhost", "port": self.broker.port, "tls": tls, **others})


@pytest.fixture
def site(repository: Path) -> Iterator[Site]:
    if MOSQUITTO is None:
        pytest.skip("no mosquitto binary")
    # Not tmp_path: only its owner can look into that, and mosquitto is somebody else.
    with tempfile.TemporaryDirectory(prefix="bintally-site-") as name:
        machine = Path(name)
        machine.chmod(0o755)
        made = Site(repository, machine)
        with made.broker:
            yield made
