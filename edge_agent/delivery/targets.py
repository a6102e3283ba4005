"""Where messages and images go: the broker with its last will, and the object store or folder."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from edge_agent.delivery.iot import IotCredentials
from edge_agent.delivery.link import VERSIONS, Will
from edge_agent.delivery.mqtt import PahoLink
from edge_agent.delivery.publisher import Publisher
from edge_agent.delivery.resolver import Resolver
from edge_agent.delivery.s3 import S3Target
from edge_agent.delivery.uploads import FolderTarget, Uploader
from edge_agent.messages import StatusMessage, utc

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.config import AgentConfig
    from edge_agent.delivery.uploads import Target
    from edge_agent.messages import Topics
    from edge_agent.outbox.outbox import Outbox
    from edge_agent.outbox.spool import Spool

_FOLDER_RETRY_MAX_S = 60.0


def make_publisher(config: AgentConfig, topics: Topics, outbox: Outbox, release: str) -> Publisher:
    """Make what delivers messages.

    Args:
        config: The configuration.
        topics: Of the robot.
        outbox: Holds the messages.
        release: Version of bintally, for the last will.

    Returns:
        A publisher, not yet started.
    """
    client_id = f"bintally-{config.robot.site}-{config.robot.id}"
    # A probe would end the session in which the broker keeps commands: none is needed once it took a connection.
    probed, broker = config.state.path / "probed", f"{config.mqtt.host}:{config.mqtt.port}"
    resolver = Resolver()

    def connect(version: int) -> PahoLink:
        unknown = version == VERSIONS[0] and not _says(probed, broker)
        if unknown:
            PahoLink(config.mqtt, client_id=client_id, version=version, will=None, resolver=resolver).close()
        last_will = StatusMessage(
            robot=config.robot.id,
            state="offline",
            reasons=("the connection broke",),
            bundle=None,
            engine=None,
            count_classes=(),
            version=release,
            at=utc(time.time()),
        )
        will = Will(topics.status, last_will.to_bytes())
        link = PahoLink(config.mqtt, client_id=client_id, version=version, will=will, resolver=resolver)
        if unknown:
            with suppress(OSError):  # a disk that is full must not keep the agent from delivering
                probed.write_text(broker, encoding="utf-8")
        return link

    publisher = Publisher(config.mqtt, topics, outbox, connect=connect)
    publisher.speaks_newest = _says(probed, broker)
    return publisher


def _says(file: Path, words: str) -> bool:
    try:
        return file.read_text(encoding="utf-8") == words
    except (OSError, UnicodeDecodeError):
        return False


def make_uploader(config: AgentConfig, target: Target | None, outbox: Outbox, spool: Spool) -> Uploader | None:
    """Make what uploads images.

    Args:
        config: The configuration.
        target: Where to.
        outbox: Knows which.
        spool: Has them.

    Returns:
        An uploader, not yet started; None when images go nowhere.
    """
    if target is None:
        return None
    retry_max_s = _FOLDER_RETRY_MAX_S if config.s3 is None else config.s3.retry_max_s
    uploader = Uploader(target, outbox, spool, retry_max_s=retry_max_s)
    if isinstance(target, S3Target):
        target.on_progress = uploader.worker.tick
    return uploader


def upload_target(config: AgentConfig) -> tuple[Target | None, str | None]:
    """Find where images go.

    Args:
        config: The configuration.

    Returns:
        The target and the prefix of this robot's keys; None and None when images go nowhere.
    """
    own = f"{config.robot.site}/{config.robot.id}"
    if config.s3 is not None:
        prefix = config.s3.prefix.strip("/")
        credentials = None if config.s3.iot is None else IotCredentials(config.s3.iot, config.robot.id)
        return S3Target(config.s3, credentials), f"{prefix}/{own}" if prefix else own
    if config.uploads.folder is not None:
        return FolderTarget(config.uploads.folder), own
    return None, None
