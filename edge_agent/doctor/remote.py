"""Others: the broker, the object store, systemd. Each is asked as the agent would ask."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from bundle.errors import BintallyError, DeliveryError
from bundle.owner import as_owner_of
from edge_agent.delivery.link import VERSION_NAMES, VERSIONS, HandshakeError, VersionRefusedError
from edge_agent.delivery.mqtt import PahoLink
from edge_agent.doctor.finding import Finding, failure
from edge_agent.machine import read_clock
from edge_agent.messages import EventMessage, Topics, new_event_id, utc
from edge_agent.threads import Waker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.config import AgentConfig

_ACK_TIMEOUT_S = 10.0
_SYSTEMCTL_TIMEOUT_S = 10.0
_MANY_RESTARTS = 3
_UNIT = "bintally-agent.service"
_SHOWN = ("LoadState", "ActiveState", "Result", "NRestarts", "Type", "WatchdogUSec", "UnitFileState", "ExecMainStatus")


def examine_broker(config: AgentConfig) -> Finding:
    """Connect, and publish one event, `doctor`, under a client id of its own.

    Args:
        config: The configuration.

    Returns:
        The finding.
    """
    started_s = time.monotonic()
    try:
        version = _publish(config)
    except BintallyError as exc:
        return failure("broker", exc)
    spoken = f"MQTT {VERSION_NAMES[version]}"
    seconds = time.monotonic() - started_s
    return Finding("broker", "ok", f"{config.mqtt.host}:{config.mqtt.port} took a message ({spoken}, {seconds:.2f} s)")


def _publish(config: AgentConfig) -> int:
    """Send the event with the first version that the broker speaks."""
    client_id = f"bintally-doctor-{config.robot.site}-{config.robot.id}"
    last: BintallyError | None = None
    for version in VERSIONS:
        try:
            link = PahoLink(config.mqtt, client_id=client_id, version=version, will=None)
        except (VersionRefusedError, HandshakeError) as exc:
            last = last or exc
            continue
        try:
            _publish_on(link, config)
        finally:
            link.close()
        return version
    raise last or DeliveryError("the broker speaks no version of MQTT that this program knows")


def _publish_on(link: PahoLink, config: AgentConfig) -> None:
    now_s = time.time()
    message = EventMessage(
        event_id=new_event_id(now_s),
        robot=config.robot.id,
        event="doctor",
        severity="info",
        subject="broker",
        problem="bintally agent doctor asked whether the broker takes messages",
        at=utc(now_s),
        clock_synchronised=read_clock().synchronised,
    )
    topic = Topics(config.robot.site, config.robot.id).event
    waker, deadline_s = Waker(), time.monotonic() + _ACK_TIMEOUT_S
    try:
        mid = link.publish(topic, message.to_bytes(), qos=1, retain=False)
        while time.monotonic() < deadline_s:
            for ack in link.wait(0.5, waker):
                if ack.mid == mid and ack.refusal is not None:
                    raise DeliveryError(
                        f"the broker refuses {topic}", got=ack.refusal, fix="Allow it in the broker's access list."
                    )
                if ack.mid == mid:
                    return
    finally:
        waker.close()
    raise DeliveryError("the broker does not acknowledge", got=f"nothing for {_ACK_TIMEOUT_S:g} s")


def examine_store(config: AgentConfig) -> Finding:
    """Store one small object where images go; into a folder root writes as its owner.

    Args:
        config: The configuration.

    Returns:
        The finding.
    """
    from edge_agent.delivery.targets import upload_target

    target, prefix = upload_target(config)
    if target is None:
        fix = "Set [s3] or uploads.folder, if people shall look at them."
        return Finding("images", "warn", "they go nowhere: unsure visits are counted without a picture", fix)
    key = f"{prefix}/doctor.txt"
    # Never the same bytes twice: what is there already would not be written again.
    content = f"written by bintally agent doctor at {utc(time.time())}\n".encode()
    folder = config.uploads.folder if config.s3 is None else None
    try:
        with nullcontext() if folder is None else as_owner_of(folder):
            target.put(key, content, "text/plain")
    except BintallyError as exc:
        return failure("images", exc)
    return Finding("images", "ok", f"{target.name} took {key}")


def examine_service() -> Finding:
    """Ask systemd about the unit."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return Finding("service", "warn", "no systemd here", "Start the agent in another way that restarts it.")
    command = [systemctl, "show", _UNIT, f"--property={','.join(_SHOWN)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SYSTEMCTL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as exc:
        return Finding(
            "service",
            "warn",
            f"systemd does not answer: {_said(exc)}",
            "Ask on the machine itself, not in a container.",
        )
    return judge_service(dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line))


def _said(exc: OSError | subprocess.SubprocessError) -> str:
    """Its own words, where it said any: the command would hide them."""
    said = str(exc.stderr or "").strip() if isinstance(exc, subprocess.CalledProcessError) else ""
    return said.splitlines()[0] if said else str(exc)


def judge_service(shown: Mapping[str, str]) -> Finding:
    """Decide what systemd's answer means.

    Args:
        shown: Properties of the unit.

    Returns:
        The finding.
    """
    state, result = shown.get("ActiveState", "unknown"), shown.get("Result", "unknown")
    if shown.get("LoadState") != "loaded":
        return Finding("service", "warn", f"{_UNIT} is not installed", "Run deploy/install.sh.")
    if state == "failed" or (state == "activating" and result not in ("success", "unknown")):
        fix = f"See docs/operations.md, and: journalctl -u {_UNIT} -n 50"
        return Finding("service", "FAIL", f"{state}: {result}, exit status {shown.get('ExecMainStatus')}", fix)
    return _running(shown, state)


def _running(shown: Mapping[str, str], state: str) -> Finding:
    """Judge a unit that has not failed."""
    restarts = int(shown.get("NRestarts") or 0)
    # Of a unit that it has not started yet, systemd says that its watchdog is "infinity".
    unwatched = shown.get("Type") != "notify" or shown.get("WatchdogUSec") in ("0", "infinity", None)
    if state == "active" and unwatched:
        fix = "Remove the override of Type= or WatchdogSec= (systemctl cat bintally-agent)."
        return Finding("service", "warn", "it runs without its watchdog: a hang would last", fix)
    if shown.get("UnitFileState") != "enabled":
        return Finding("service", "warn", f"{state}, but not started at boot", f"systemctl enable --now {_UNIT}")
    if state != "active":
        return Finding("service", "warn", f"it does not run ({state}): nothing is counted", f"systemctl start {_UNIT}")
    if restarts >= _MANY_RESTARTS:
        fix = f"See why: journalctl -u {_UNIT} -p warning"
        return Finding("service", "warn", f"{state}, but it was restarted {restarts} times", fix)
    return Finding("service", "ok", f"{state}, watchdog {shown['WatchdogUSec']}, restarts {restarts}")
