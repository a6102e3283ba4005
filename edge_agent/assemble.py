"""From a configuration to an agent that is ready to run. The only place that knows every part."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

from bundle.errors import ConfigError, DeliveryError
from edge_agent.agent import Agent
from edge_agent.capture.camera import Camera
from edge_agent.capture.child import CAPTURE_COMMAND
from edge_agent.check import secret_files
from edge_agent.commands.assemble import CommandsKit
from edge_agent.delivery.home_assistant import discovery_topic, make_discovery
from edge_agent.delivery.targets import make_publisher, make_uploader, upload_target
from edge_agent.health.alarms import Alarms
from edge_agent.health.certificates import CertificateWatch
from edge_agent.health.prometheus import Endpoint
from edge_agent.health.report import Report
from edge_agent.health.telemetry import Telemetry
from edge_agent.loading import first_counter
from edge_agent.messages import Topics
from edge_agent.outbox.ledger import Ledger
from edge_agent.outbox.outbox import Outbox
from edge_agent.outbox.quota import Quota
from edge_agent.outbox.rescue import open_outbox
from edge_agent.outbox.spool import Spool
from edge_agent.parts import Pace, Parts
from edge_agent.probation import Probation
from edge_agent.records import read_records
from edge_agent.visits.camera_profile import load_profile
from edge_agent.visits.frame_path import FramePath

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bundle.counter import Counter
    from edge_agent.config import AgentConfig
    from edge_agent.outbox.rows import Entry

_LOG = logging.getLogger(__name__)

_DISK_TROUBLE = frozenset({errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO})


def agent_version() -> str:
    """Version of bintally that runs."""
    try:
        return installed_version("bintally")
    except PackageNotFoundError:
        return "0"


def assemble(
    config: AgentConfig,
    *,
    capture_command: Sequence[str] = CAPTURE_COMMAND,
    on_accepted: Callable[[Entry], None] | None = None,
    probation: Probation | None = None,
) -> Agent:
    """Build an agent.

    Args:
        config: Paths absolute, as `load_config` gives it.
        capture_command: How capture processes are started.
        on_accepted: Called, on the outbox's thread, with each count that has become durable.
        probation: Of the store's bundle, for a caller that can be asked to end while it is loaded.

    Returns:
        The agent.

    Raises:
        BintallyError: Something that it needs is missing or damaged, or the disk refuses.
    """
    probation = probation or Probation(config.bundle.path)
    with ExitStack() as undo, probation.fair():
        lock = _lock_state(config.state.path)
        undo.callback(os.close, lock)
        records = {} if config.records is None else read_records(config.records.file)
        profiles = [load_profile(section) for section in config.cameras]
        counter = first_counter(config.bundle, probation)
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
    publisher = make_publisher(config, topics, outbox, agent_version())
    if config.mqtt.home_assistant is not None:
        site = config.robot.site
        announcement = make_discovery(topics, site=site, robot=robot, version=agent_version())
        publisher.announcement = discovery_topic(config.mqtt.home_assistant, site, robot), announcement
    target, prefix = upload_target(config)
    uploader = make_uploader(config, target, outbox, spool)
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
    own = {key: file for key, file in secret_files(config).items() if file is not None and key.endswith("cert_file")}
    alarms.certificates = CertificateWatch(own)
    pace = _pace(config)
    return Parts(cameras, path, outbox, publisher, uploader, telemetry, report, alarms, commands, probation, pace)


def _pace(config: AgentConfig) -> Pace:
    return Pace(config.telemetry.interval_s, config.stop.drain_timeout_s, config.stop.stop_timeout_s)


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
