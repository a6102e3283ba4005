"""From a configuration to an agent that is ready to run. The only place that knows every part."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from bundle.counter import Counter
from bundle.engines.choose import open_engine
from bundle.errors import BundleError, ConfigError, DeliveryError
from bundle.manifest import MANIFEST_NAME
from bundle.store import Store
from edge_agent.agent import Agent
from edge_agent.alarms import Alarms
from edge_agent.camera import CAPTURE_COMMAND, Camera
from edge_agent.camera_profile import load_profile
from edge_agent.commands.assemble import CommandsKit
from edge_agent.commands.bundles import engine_threads
from edge_agent.frame_path import FramePath
from edge_agent.home_assistant import discovery_topic, make_discovery
from edge_agent.iot import IotCredentials
from edge_agent.ledger import Ledger
from edge_agent.link import VERSIONS, Will
from edge_agent.messages import StatusMessage, Topics, utc
from edge_agent.mqtt import PahoLink
from edge_agent.outbox import Outbox
from edge_agent.outbox_rescue import open_outbox
from edge_agent.parts import Pace, Parts
from edge_agent.probation import Probation
from edge_agent.prometheus import Endpoint
from edge_agent.publisher import Publisher
from edge_agent.quota import Quota
from edge_agent.records import read_records
from edge_agent.report import Report
from edge_agent.resolver import Resolver
from edge_agent.s3 import S3Target
from edge_agent.spool import Spool
from edge_agent.telemetry import Telemetry
from edge_agent.uploads import FolderTarget, Uploader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bundle.verify import Bundle
    from edge_agent.config import AgentConfig, BundleSection
    from edge_agent.rows import Entry
    from edge_agent.uploads import Target

_LOG = logging.getLogger(__name__)

_FOLDER_RETRY_MAX_S = 60.0
_DISK_TROUBLE = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})


def agent_version() -> str:
    """Version of bintally that runs."""
    try:
        return installed_version("bintally")
    except PackageNotFoundError:
        return "0"


def find_bundle(section: BundleSection) -> Bundle:
    """Verify the bundle that a configuration names.

    Args:
        section: `path` is a bundle's folder, or a store.

    Returns:
        The bundle, every file hashed.

    Raises:
        ConfigError: There is neither a bundle nor a store.
        BundleError: The store has no active bundle, or the bundle does not verify.
    """
    from bundle.verify import load_bundle

    path = section.path
    if (path / MANIFEST_NAME).is_file():
        return load_bundle(path)
    if (path / "state.json").is_file() or (path / "bundles").is_dir():
        return Store(path).current()
    raise ConfigError(
        f"bundle.path {path} {'is neither a bundle nor a store' if path.exists() else 'does not exist'}",
        expected="a folder with a manifest.json, or a store of bundles",
        fix="Correct it, or run `bintally bundle install FOLDER --store STORE` and name that store.",
    )


def open_counter(section: BundleSection) -> Counter:
    """Load the bundle that a configuration names.

    Args:
        section: Which, and how.

    Returns:
        A counter that is ready.

    Raises:
        BundleError: The store has no active bundle, or the bundle does not verify.
        ConfigError: No such bundle or engine.
        EngineError: The runtime refuses it.
    """
    bundle = find_bundle(section)
    return Counter(bundle, open_engine(bundle, engine=section.engine, threads=engine_threads(section)))


def assemble(
    config: AgentConfig,
    *,
    capture_command: Sequence[str] = CAPTURE_COMMAND,
    on_accepted: Callable[[Entry], None] | None = None,
) -> Agent:
    """Build an agent.

    Args:
        config: Paths absolute, as `load_config` gives it.
        capture_command: How capture processes are started.
        on_accepted: Called, on the outbox's thread, with each count that has become durable.

    Returns:
        The agent.

    Raises:
        BintallyError: Something that it needs is missing or damaged, or the disk refuses.
    """
    probation = Probation(config.bundle.path)
    with ExitStack() as undo, probation.fair():
        lock = _lock_state(config.state.path)
        undo.callback(os.close, lock)
        records = {} if config.records is None else read_records(config.records.file)
        profiles = [load_profile(section) for section in config.cameras]
        counter = _first_counter(config.bundle, probation)
        counters = ExitStack()  # the frame path takes the counter over, and swaps it
        undo.callback(counters.close)
        counters.callback(counter.close)
        cameras = []
        preprocessing = counter.bundle.manifest.preprocessing
        for section, profile in zip(config.cameras, profiles, strict=True):
            cameras.append(Camera(section, preprocessing, command=capture_command, profile=profile))
            undo.callback(cameras[-1].close)
        endpoint = None
        if config.telemetry.prometheus_port is not None:
            endpoint = Endpoint(config.telemetry.prometheus_port)
            undo.callback(endpoint.close)
        parts = _parts(config, counter, cameras, records, on_accepted, probation)
        counters.pop_all()
        counters.callback(parts.path.close)
        return Agent(replace(parts, endpoint=endpoint, release=undo.pop_all().close))


def _first_counter(section: BundleSection, probation: Probation) -> Counter:
    """Load the bundle. No systemd starts an agent again whose bundle is refused: a new one is taken back at once."""
    probation.begin()
    try:
        return open_counter(section)
    except BundleError as exc:
        if not probation.take_back(str(exc)):
            raise
    return open_counter(section)


def _parts(
    config: AgentConfig,
    counter: Counter,
    cameras: list[Camera],
    records: dict[str, int],
    on_accepted: Callable[[Entry], None] | None,
    probation: Probation,
) -> Parts:
    robot, topics, telemetry = config.robot.id, Topics(config.robot.site, config.robot.id), Telemetry()
    spool = Spool(config.state.path / "images")
    file, rescue = open_outbox(config.state.path / "outbox.db", config.state.max_bytes)
    if rescue is not None:
        _LOG.error("outbox: %s", rescue)
    outbox = Outbox(Ledger(file, spool, config.state), on_accepted=_acceptance(telemetry, on_accepted))
    kit = CommandsKit(config, topics, outbox, telemetry, file.remembered())
    publisher = _publisher(config, topics, outbox)
    if config.mqtt.home_assistant is not None:
        site = config.robot.site
        announcement = make_discovery(topics, site=site, robot=robot, version=agent_version())
        publisher.announcement = discovery_topic(config.mqtt.home_assistant, site, robot), announcement
    target, prefix = upload_target(config)
    uploader = _uploader(config, target, outbox, spool)
    report = Report(
        robot=robot,
        version=agent_version(),
        counter=counter,
        cameras=cameras,
        outbox=outbox,
        publisher=publisher,
        uploader=uploader,
        telemetry=telemetry,
        state_path=config.state.path,
        rescue=rescue,
    )
    path = FramePath(
        counter,
        robot=robot,
        topics=topics,
        records=records,
        uploads=config.uploads,
        upload_prefix=prefix,
        quota=Quota(file.quota_stored(), lambda: outbox.uptime_s),
        telemetry=telemetry,
        requests=kit.requests,
        recorder=kit.recorder,
        cameras={camera.name: (section, camera) for section, camera in zip(config.cameras, cameras, strict=True)},
    )

    def moved() -> str:
        found = ((camera.name, path.moved(camera)) for camera in cameras)
        return "; ".join(f"camera {name} has moved {words}" for name, words in found if words)

    commands = kit.make(lambda: path.counter, agent_version(), prefix, moved)
    publisher.receive = commands.desk.receive
    report.settings = commands.settings.shown
    alarms = Alarms(
        robot=robot,
        topics=topics,
        outbox=outbox,
        publisher=publisher,
        uploader=uploader,
        report=report,
        telemetry=telemetry,
    )
    pace = _pace(config)
    return Parts(cameras, path, outbox, publisher, uploader, telemetry, report, alarms, commands, probation, pace)


def _pace(config: AgentConfig) -> Pace:
    return Pace(config.telemetry.interval_s, config.stop.drain_timeout_s, config.stop.stop_timeout_s)


def _uploader(config: AgentConfig, target: Target | None, outbox: Outbox, spool: Spool) -> Uploader | None:
    if target is None:
        return None
    retry_max_s = _FOLDER_RETRY_MAX_S if config.s3 is None else config.s3.retry_max_s
    uploader = Uploader(target, outbox, spool, retry_max_s=retry_max_s)
    if isinstance(target, S3Target):
        target.on_progress = uploader.worker.tick
    return uploader


def _lock_state(folder: Path) -> int:
    """Make the state folder and take it for this process: two agents on one outbox would corrupt it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno in _DISK_TROUBLE:  # not the configuration's fault: systemd tries again
            raise DeliveryError(f"state.path {folder} cannot be used", got=exc.strerror, fix="Check the disk.") from exc
        raise ConfigError(f"state.path {folder} cannot be used", got=exc.strerror, fix="Check its rights.") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise ConfigError(
            f"state.path {folder} is in use by another agent", fix="Stop it, or name another state.path."
        ) from exc
    return lock


def _acceptance(telemetry: Telemetry, on_accepted: Callable[[Entry], None] | None) -> Callable[[Sequence[Entry]], None]:
    def accepted(entries: Sequence[Entry]) -> None:
        now_s = time.monotonic()
        for entry in entries:
            if entry.captured_mono_s is not None:
                telemetry.latency("total", (now_s - entry.captured_mono_s) * 1e3)
                if on_accepted is not None:
                    on_accepted(entry)

    return accepted


def _publisher(config: AgentConfig, topics: Topics, outbox: Outbox) -> Publisher:
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
            version=agent_version(),
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
