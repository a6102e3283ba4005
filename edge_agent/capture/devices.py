"""Cameras of the kernel (V4L2) by names that stay: /dev/videoN changes when a plug is pulled, by-id and by-path do not.

udev keeps links in /dev/v4l/by-id (who the camera is) and /dev/v4l/by-path (where it is plugged in). A camera that is
configured as a number or as /dev/videoN is learnt by its links while it is there, and found by them afterwards. Two
cameras of one make without serial numbers share a by-id name: configure those by by-path.
"""

from __future__ import annotations

from pathlib import Path

_V4L = Path("/dev/v4l")
_KINDS = ("by-id", "by-path")


def is_local(source: int | str) -> bool:
    """Tell whether a source is a device of this machine, as opposed to an address.

    Args:
        source: As in the configuration.
    """
    return isinstance(source, int) or source.startswith("/dev/")


def stable_names(source: int | str, root: Path = _V4L) -> tuple[str, ...]:
    """Find the names under which a device will be found again.

    Args:
        source: A number, /dev/videoN, or a link to one.
        root: Where udev keeps its links.

    Returns:
        Links that lead to it, by-id before by-path; none when it is not there or udev knows none.
    """
    device = Path(f"/dev/video{source}" if isinstance(source, int) else source)
    if not device.exists():
        return ()
    target = device.resolve()
    found: list[str] = []
    for kind in _KINDS:
        folder = root / kind
        if folder.is_dir():
            found.extend(str(link) for link in sorted(folder.iterdir()) if link.resolve() == target)
    return tuple(found)


def find_device(source: int | str, names: tuple[str, ...]) -> int | str:
    """Name the device that a camera has now.

    Args:
        source: As in the configuration.
        names: From `stable_names`, when the camera was last seen.

    Returns:
        The path behind the first name that leads somewhere. Without names the source itself; with names of which none
        leads anywhere the first of them, because /dev/videoN may be another camera by now.
    """
    for name in names:
        if Path(name).exists():
            return str(Path(name).resolve())
    return names[0] if names else source


class Device:
    """The source of a camera: a device is learnt by its stable names while it is there, and found by them afterwards.

    Args:
        source: As in the configuration; what is no device of this machine stays what it is.
    """

    def __init__(self, source: int | str) -> None:
        self._source = source
        self._names: tuple[str, ...] = ()

    def now(self) -> int | str:
        """Where it is now."""
        if not is_local(self._source):
            return self._source
        self._names = self._names or stable_names(self._source)
        return find_device(self._source, self._names)


def plugged_in(root: Path = _V4L) -> str:
    """List the cameras that are there, for an error message.

    Args:
        root: Where udev keeps its links.

    Returns:
        Their by-id names, or "none".
    """
    folder = root / _KINDS[0]
    names = sorted(str(link) for link in folder.iterdir()) if folder.is_dir() else []
    return ", ".join(names) or "none"
