"""Cameras and the nodes of a GPU: there, and open to whoever asks."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import cv2

from bundle.errors import BintallyError
from edge_agent.capture.sources import check_video, photo_names, source_kind
from edge_agent.doctor.finding import Finding, failure
from edge_agent.masking import shown_source
from edge_agent.visits.camera_profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.config import AgentConfig, CameraSection

_CONNECT_TIMEOUT_S = 5.0
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_GPU_NODES = ("nvmap", "nvhost-*gpu*", "nvhost-vic", "nvhost-nv*", "nvhost-msenc", "nvgpu/igpu0/*", "dma_heap/system")
_TEGRA = "etc/nv_tegra_release"
_ARGUS = "tmp/argus_socket"


def examine_cameras(config: AgentConfig, root: Path = Path("/")) -> Iterator[Finding]:
    """Look at every configured source, and on a Jetson at the nodes of its GPU.

    Args:
        config: The configuration.
        root: The machine's file system, for /dev.

    Yields:
        One finding per camera, one for the GPU.
    """
    for camera in config.cameras:
        subject = f"camera {camera.name}"
        try:
            load_profile(camera)
            yield _examine(subject, camera, root)
        except BintallyError as exc:
            yield failure(subject, exc)
    if (root / _TEGRA).exists():
        yield _gpu_nodes(root)


def _examine(subject: str, camera: CameraSection, root: Path) -> Finding:
    source = camera.source
    kind = source_kind(source)
    if kind == "folder":
        return Finding(subject, "ok", f"{len(photo_names(Path(str(source))))} photos in {source}")
    if kind == "video":
        check_video(Path(str(source)))
        return Finding(subject, "ok", f"video {source}")
    if isinstance(source, int):
        return _device(subject, Path(f"/dev/video{source}"), root)
    if source.startswith("/dev/"):
        return _device(subject, Path(source), root)
    if source.startswith("csi://"):
        return _sensor(subject, source, root)
    return _address(subject, source)


def _device(subject: str, device: Path, root: Path) -> Finding:
    file = root / device.relative_to("/")
    try:
        if not stat.S_ISCHR(file.stat().st_mode):
            return Finding(subject, "FAIL", f"{device} is no device", "Correct cameras.source.")
        os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as exc:
        return _refused(subject, device, exc, root)
    stable = _stable_name(device, root)
    if stable is not None:
        fix = f"Set source to {stable}, which stays the same when cameras are plugged in another order."
        return Finding(subject, "warn", f"{device} opens, but its number can change", fix)
    return Finding(subject, "ok", f"{device} opens")


def _refused(subject: str, device: Path, exc: OSError, root: Path) -> Finding:
    if exc.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        others = ", ".join(sorted(f"/dev/{path.name}" for path in (root / "dev").glob("video*"))) or "none"
        fix = f"Plug it in, or correct cameras.source; cameras here: {others}."
        return Finding(subject, "FAIL", f"{device} is not there", fix)
    if exc.errno in (errno.EACCES, errno.EPERM):
        fix = "Use sudo bintally-doctor. If that fails too: its user into the group video, the device into the unit."
        return Finding(subject, "FAIL", f"{device} may not be opened", fix)
    if exc.errno == errno.EBUSY:
        return Finding(subject, "warn", f"{device} is in use", "If not by the agent: stop the program that holds it.")
    return Finding(subject, "FAIL", f"{device} does not open: {exc.strerror}", "Unplug it and plug it in again.")


def _stable_name(device: Path, root: Path) -> Path | None:
    """The name by id of a device that is configured by its number."""
    if not device.name.startswith("video"):
        return None
    for folder in ("dev/v4l/by-id", "dev/v4l/by-path"):
        for link in sorted((root / folder).glob("*")):
            if link.resolve().name == device.name:
                return Path("/") / folder / link.name
    return None


def _address(subject: str, source: str) -> Finding:
    parts = urlsplit(source)
    shown = shown_source(source)
    port = _PORTS.get(parts.scheme) if parts.port is None else parts.port
    if parts.hostname is None or port is None:
        return Finding(subject, "warn", f"{shown} is not checked", "Start the agent and see whether frames come.")
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        return Finding(subject, "FAIL", f"{shown} does not answer: {reason}", "Check address, power and network.")
    return Finding(subject, "ok", f"{shown} answers on port {port}")


def _sensor(subject: str, source: str, root: Path) -> Finding:
    """A camera of a Jetson: pictures come from a daemon, through a socket, and OpenCV takes them through GStreamer."""
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        fix = "Run deploy/install.sh --jetson: it takes the system's OpenCV (apt install nvidia-opencv)."
        return Finding(subject, "FAIL", f"{source} needs an OpenCV with GStreamer, this one has none", fix)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CONNECT_TIMEOUT_S)
            probe.connect(str(root / _ARGUS))
    except PermissionError:
        return Finding(subject, "FAIL", f"/{_ARGUS} may not be opened", "Add the service's user to the group video.")
    except OSError as exc:
        fix = "systemctl restart nvargus-daemon; the unit needs PrivateTmp=no (install.sh --jetson sees to it)."
        return Finding(subject, "FAIL", f"nvargus-daemon does not answer at /{_ARGUS}: {exc.strerror or exc}", fix)
    return Finding(subject, "ok", f"nvargus-daemon answers; whether {source} gives pictures shows when the agent runs")


def _gpu_nodes(root: Path) -> Finding:
    refused, seen = [], 0
    for pattern in _GPU_NODES:
        for node in sorted((root / "dev").glob(pattern)):
            seen += 1
            try:
                os.close(os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as exc:
                if exc.errno in (errno.EACCES, errno.EPERM):
                    refused.append(f"/{node.relative_to(root)}")
    if not seen:
        return Finding("gpu", "warn", "this is a Jetson, but no node of its GPU is there", "Check the driver: dmesg.")
    if refused:
        fix = "Add DeviceAllow lines with `systemctl edit bintally-agent`, and the service's user to video and render."
        return Finding("gpu", "FAIL", f"may not be opened: {', '.join(refused)}", fix)
    return Finding("gpu", "ok", f"{seen} nodes open")
