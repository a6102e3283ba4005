"""Does everything that a configuration names exist and fit? Asked before the agent starts; nothing is changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bundle.engines.choose import ENGINES
from bundle.errors import ConfigError
from edge_agent.capture.sources import check_video, photo_names, source_kind
from edge_agent.records import read_records
from edge_agent.visits.camera_profile import load_profile

if TYPE_CHECKING:
    from edge_agent.config import AgentConfig


def check_references(config: AgentConfig) -> dict[str, str]:
    """Check what a configuration points to.

    Args:
        config: As `load_config` gives it.

    Returns:
        What was found, by subject, for people to read.

    Raises:
        BintallyError: Something is missing or does not fit; the error names the key.
    """
    from edge_agent.loading import find_bundle

    if config.bundle.engine not in ENGINES:
        raise ConfigError("bundle.engine is unknown", got=config.bundle.engine, expected=f"one of {', '.join(ENGINES)}")
    found = {"bundle": find_bundle(config.bundle).label}
    for camera in config.cameras:
        profile = load_profile(camera)
        kind = source_kind(camera.source)
        if kind == "video":
            check_video(Path(str(camera.source)))
        size = f", {len(photo_names(Path(str(camera.source))))} photos" if kind == "folder" else ""
        rectified = "" if profile is None else ", rectified by its profile"
        found[f"camera {camera.name}"] = f"{kind}{size}{rectified}"
    if config.records is not None:
        found["records"] = f"{len(read_records(config.records.file))} bins"
    for key, file in secret_files(config).items():
        if file is not None and not _is_file(file):
            raise ConfigError(f"{key} cannot be found", got=file, fix="Correct it, or pass it by LoadCredential.")
    return found


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a folder above it is closed to whoever asks
        return False


def secret_files(config: AgentConfig) -> dict[str, Path | None]:
    """Name the files that hold keys, passwords and certificates.

    Args:
        config: As `load_config` gives it.

    Returns:
        Path by configuration key, None where nothing is set.
    """
    tls, iot = config.mqtt.tls, None if config.s3 is None else config.s3.iot
    return {
        "mqtt.password_file": config.mqtt.password_file,
        "mqtt.tls.ca_file": None if tls is None else tls.ca_file,
        "mqtt.tls.cert_file": None if tls is None else tls.cert_file,
        "mqtt.tls.key_file": None if tls is None else tls.key_file,
        "s3.credentials_file": None if config.s3 is None else config.s3.credentials_file,
        "s3.iot.ca_file": None if iot is None else iot.ca_file,
        "s3.iot.cert_file": None if iot is None else iot.cert_file,
        "s3.iot.key_file": None if iot is None else iot.key_file,
    }
