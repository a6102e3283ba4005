"""A name server of the loopback that is silent, late or knows nothing on order, and programs that ask no other."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from typing_extensions import Self

Answers = Literal["well", "late", "silent", "unknown"]
_LATE_S = 3.0
_TICK_S = 0.1
_HEADER = 12
_TYPE_A = 1
_ENTER = 'mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/nsswitch.conf && shift && exec "$@"'


def can_rename() -> bool:
    """Whether this user may give a process other name servers than the machine's."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0


class NameServer:
    """Says of every name that it is this machine.

    Args:
        folder: For the files that name it.
        patience: `options` of resolv.conf.

    Attributes:
        mode: "well", "late" (by 3 s), "silent", or "unknown": there is no such name.
        asked: Questions so far.
    """

    def __init__(self, folder: Path, patience: str = "timeout:2 attempts:20") -> None:
        self.mode: Answers = "well"
        self.asked = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.settimeout(_TICK_S)
        # The C library asks on port 53 alone, so each server has an address of its own.
        number = os.getpid()
        address = f"127.{64 + (number >> 16) % 64}.{(number >> 8) % 256}.{number % 256}"
        self._sock.bind((address, 53))
        self._files = folder / "resolv.conf", folder / "nsswitch.conf"
        self._files[0].write_text(f"nameserver {address}\noptions {patience}\n", encoding="ascii")
        self._files[1].write_text("hosts: files dns\n", encoding="ascii")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._sock.close()

    def command(self, command: Sequence[str]) -> list[str]:
        """A command that asks this server, in a mount namespace of its own."""
        return ["unshare", "-m", "sh", "-c", _ENTER, *(str(file) for file in self._files), *command]

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                query, client = self._sock.recvfrom(512)
            except TimeoutError:
                continue
            self.asked += 1
            if self.mode == "late":
                threading.Timer(_LATE_S, self._answer, (query, client)).start()
            elif self.mode != "silent":
                self._answer(query, client)

    def _answer(self, query: bytes, client: tuple[str, int]) -> None:
        end = query.index(b"\0", _HEADER) + 5
        question = query[_HEADER:end]
        found = self.mode != "unknown" and int.from_bytes(question[-4:-2], "big") == _TYPE_A
        flags = b"\x81\x83" if self.mode == "unknown" else b"\x81\x80"
        header = query[:2] + flags + b"\0\x01" + (b"\0\x01" if found else b"\0\0") + bytes(4)
        record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04" + socket.inet_aton("127.0.0.1") if found else b""
        try:
            self._sock.sendto(header + question + record, client)
        except OSError:
            return
