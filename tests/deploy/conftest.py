"""The broker as it is deployed: our configuration, our access list, our certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.config import MqttSection
from tests.simulators.authority import Authority
from tests.simulators.broker import MOSQUITTO, Mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Site:
    """One site's authority and broker.

    Args:
        deploy: The repository's deploy folder.
        folder: For certificates and the broker's state.
    """

    def __init__(self, deploy: Path, folder: Path) -> None:
        authority = Authority(folder / "certificates")
        self.certificates, self.run = authority.folder, authority.run
        self.run("server", "localhost", "127.0.0.1")
        state = folder / "state"
        state.mkdir()
        text = (deploy / "mosquitto" / "mosquitto.conf").read_text(encoding="utf-8")
        changes = {
            "listener 8883\n": "",
            "/etc/mosquitto/certs/": f"{self.certificates}/",
            "/etc/mosquitto/bintally.acl": str(deploy / "mosquitto" / "bintally.acl"),
            "/var/lib/mosquitto/": f"{state}/",
            "autosave_interval 5": "autosave_interval 1",
        }
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        self.database = state / "mosquitto.db"
        self.broker = Mosquitto(folder, text)

    def settings(self, name: str, **others: object) -> MqttSection:
        """What a client with this certificate configures."""
        stem = self.certificates / name.replace("/", "@")
        tls = {"ca_file": self.certificates / "ca.crt", "cert_file": f"{stem}.crt", "key_file": f"{stem}.key"}
        return MqttSection.model_validate({"host": "localhost", "port": self.broker.port, "tls": tls, **others})


@pytest.fixture
def site(repository: Path, tmp_path: Path) -> Iterator[Site]:
    if MOSQUITTO is None:
        pytest.skip("no mosquitto binary")
    made = Site(repository / "deploy", tmp_path)
    with made.broker:
        yield made
