"""What a process may do, tried: run by the unit before the agent, in the same sandbox. Needs no package.

`python probe.py FILE`
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
_TEMPORARY = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 - whether they are its own is what is asked
_PLACES = (
    *("/", "/dev", "/etc", "/etc/bintally", "/home", "/opt/bintally", "/root", "/run", "/run/bintally", "/srv", "/sys"),
    *("/usr", "/var/cache/bintally", "/var/lib", "/var/lib/bintally", "/var/log", *_TEMPORARY),
)


def _writable(place: str) -> bool:
    try:
        file = Path(place) / ".probe"
        file.touch()
        file.unlink()
    except OSError:
        return False
    return True


def _call(name: str, *arguments: object) -> None:
    if getattr(_LIBC, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def _set_user_bit() -> None:
    file = Path(os.environ.get("STATE_DIRECTORY", _TEMPORARY[1])) / ".set-user"
    file.touch()
    try:
        file.chmod(0o4755)
    finally:
        file.unlink()


def _read_password() -> None:
    (Path(os.environ["CREDENTIALS_DIRECTORY"]) / "mqtt-password").read_bytes()


_DEEDS: dict[str, Callable[[], object]] = {
    "see other processes": lambda: Path("/proc/1/status").read_text(encoding="ascii"),
    "list /home": lambda: list(Path("/home").iterdir()),
    "read root's secrets": lambda: list(Path("/etc/bintally/credentials").iterdir()),
    "set the user bit": _set_user_bit,
    "another personality": lambda: _call("personality", 0x0040000),
    "a namespace": lambda: _call("unshare", 0x10000000),
    "mount": lambda: _call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "a socket of the kernel's ciphers": lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).close(),
    "open a device that others may open": lambda: os.close(os.open("/dev/forbidden", os.O_RDWR)),
    "open /dev/null": lambda: os.close(os.open("/dev/null", os.O_RDWR)),
    "lower the own priority": lambda: os.nice(1),
    "real-time scheduling": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "read the own password": _read_password,
}


def _may(deed: Callable[[], object]) -> bool:
    try:
        deed()
    except (OSError, KeyError):
        return False
    return True


if __name__ == "__main__":
    found = {
        "writable": [place for place in _PLACES if _writable(place)],
        "may": [name for name, deed in _DEEDS.items() if _may(deed)],
    }
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
