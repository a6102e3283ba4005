"""Files and the machine: the bundle and its engine, state, secrets, certificates, clock, disk."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from bundle.errors import BintallyError
from bundle.owner import as_owner_of
from edge_agent.check import secret_files
from edge_agent.delivery.tls import certificate_end, make_context
from edge_agent.doctor.finding import Finding, failure
from edge_agent.machine import disk_free_bytes, read_clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_agent.config import AgentConfig
    from edge_agent.machine import ClockQuality

_SOON = timedelta(days=30)
_BUILT_IN = 2026
_READABLE_BY_OTHERS, _WRITABLE_BY_MORE = 0o004, 0o022


def examine_bundle(config: AgentConfig) -> Iterator[Finding]:
    """Verify the bundle, open its engine and recompute the golden frames.

    Args:
        config: The configuration.

    Yields:
        One finding for the bundle, one for the engine.
    """
    from edge_agent.loading import find_bundle, open_counter

    try:
        yield Finding("bundle", "ok", find_bundle(config.bundle).label)
    except BintallyError as exc:
        yield failure("bundle", exc)
        return
    started_s = time.monotonic()
    try:
        counter = open_counter(config.bundle)
    except BintallyError as exc:
        yield failure("engine", exc)
        return
    name = counter.engine.name
    counter.close()
    yield Finding(
        "engine", "ok", f"{name} agrees with the golden frames, ready in {time.monotonic() - started_s:.1f} s"
    )


def examine_state(config: AgentConfig) -> Finding:
    """Can the outbox be written, and is there room for what it may grow to? Root asks as the owner of the folder.

    Args:
        config: The configuration.

    Returns:
        The finding.
    """
    with as_owner_of(config.state.path):
        return _state(config)


def _state(config: AgentConfig) -> Finding:
    folder, subject = config.state.path, "state"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"doctor")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as exc:
        fix = "Run as the service's user; for the service, keep state.path below /var/lib/bintally."
        return Finding(subject, "FAIL", f"{folder} cannot be written: {exc.strerror}", fix)
    used = _used_bytes(folder)
    free = disk_free_bytes(folder) or 0
    running = " (an agent runs on it)" if _is_locked(folder / "lock") else ""
    if free < config.state.max_bytes - used:
        fix = "Free some, or lower state.max_bytes."
        return Finding(
            subject, "warn", f"{_mib(free)} free, but it may grow by {_mib(config.state.max_bytes - used)}", fix
        )
    return Finding(subject, "ok", f"{folder} can be written, {_mib(free)} free{running}")


def _used_bytes(folder: Path) -> int:
    """Add up files that a running agent may take away meanwhile."""
    used = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            used += file.stat().st_size if file.is_file() else 0
    return used


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def examine_secrets(config: AgentConfig) -> Iterator[Finding]:
    """Are keys and passwords there, not empty, and for nobody else to read or change?

    Args:
        config: The configuration.

    Yields:
        One finding per file.
    """
    for key, file in secret_files(config).items():
        if file is not None:
            yield _secret(key, file, public=key.endswith(("ca_file", "cert_file")))


def _secret(key: str, file: Path, *, public: bool) -> Finding:
    try:
        status = file.stat()
        with file.open("rb") as handle:
            content = handle.read(1 << 16)
    except OSError as exc:
        fix = "Correct it or put the file there; for the service's secrets: sudo bintally-doctor."
        return Finding(key, "FAIL", f"{file} cannot be read: {exc.strerror}", fix)
    mode = status.st_mode & 0o777
    if not content.strip():
        return Finding(
            key, "FAIL", f"{file} is empty", "Write the secret into it; for the service: /etc/bintally/credentials."
        )
    if mode & _WRITABLE_BY_MORE:
        return Finding(key, "FAIL", f"{file} can be changed by others (mode {mode:o})", f"chmod go-w {file}")
    if mode & _READABLE_BY_OTHERS and not public:
        return Finding(key, "FAIL", f"{file} can be read by everybody (mode {mode:o})", f"chmod o= {file}")
    return Finding(key, "ok", f"{file} (mode {mode:o})")


def examine_certificates(config: AgentConfig) -> Iterator[Finding]:
    """Do certificate and key belong together, and how long are they good for?

    Args:
        config: The configuration.

    Yields:
        One finding per certificate file, or one failure for all.
    """
    tls = config.mqtt.tls
    if tls is None:
        yield Finding(
            "tls",
            "warn",
            "the broker is spoken to in the clear",
            "Set [mqtt.tls]; deploy/mosquitto makes certificates.",
        )
        return
    try:
        make_context(tls)
    except BintallyError as exc:
        yield failure("tls", exc)
        return
    now = datetime.now(timezone.utc)
    for key, file in (("mqtt.tls.ca_file", tls.ca_file), ("mqtt.tls.cert_file", tls.cert_file)):
        if file is not None:
            yield _certificate(f"{key} date", file, now)


def _certificate(subject: str, file: Path, now: datetime) -> Finding:
    try:
        end = certificate_end(file)
    except (OSError, ValueError) as exc:
        return Finding(subject, "FAIL", f"{file}: {exc}", "Put a certificate in PEM form there.")
    fix = "Renew it; the agent takes the new files at its next connect, without a restart."
    if end < now:
        return Finding(subject, "FAIL", f"{file} ended on {end:%Y-%m-%d}", f"{fix} If it has not: set the clock.")
    if end - now < _SOON:
        return Finding(subject, "warn", f"{file} ends on {end:%Y-%m-%d}", fix)
    return Finding(subject, "ok", f"{file} is good until {end:%Y-%m-%d}")


def examine_clock(quality: ClockQuality | None = None, year: int | None = None) -> Finding:
    """Is the clock right, as far as this machine can know?

    Args:
        quality: By default what the kernel says.
        year: By default the clock's.

    Returns:
        The finding.
    """
    found = read_clock() if quality is None else quality
    now = datetime.now(timezone.utc).year if year is None else year
    fix = "Switch network time on: timedatectl set-ntp true."
    if now < _BUILT_IN:
        return Finding("clock", "FAIL", f"it says {now}: certificates and credentials will not be valid", fix)
    if found.synchronised is None:
        return Finding(
            "clock", "warn", "this machine does not tell who keeps the clock", "See docs/operations.md, clock."
        )
    if not found.synchronised:
        return Finding("clock", "warn", "no time server keeps it: counts are flagged", fix)
    error = "" if found.max_error_ms is None else f", off by at most {found.max_error_ms:.0f} ms"
    return Finding("clock", "ok", f"kept by a time server{error}")
