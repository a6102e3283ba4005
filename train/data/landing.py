"""Where downloaded files land: whole or not at all, one download per folder, and a memory of what was not wanted."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from bundle.errors import ConfigError
from train.data.disk import FULL, DiskError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a folder for one download; the lock ends with the process, however that ends.

    Args:
        path: The lock file.

    Yields:
        Once, while the lock is held.

    Raises:
        ConfigError: Another process holds it.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigError(
                f"another download is writing into {path.parent.parent}", fix="Wait for it, or choose another folder."
            ) from exc
        yield


def sweep(folder: Path) -> None:
    """Remove what a killed download left unfinished.

    Args:
        folder: An existing folder that no other download is writing into.

    Raises:
        OSError: A file cannot be removed.
    """
    for entry in os.scandir(folder):
        if entry.name.endswith(".part"):
            os.unlink(entry.path)  # noqa: PTH108 - a Path per file would double the time for half a million files


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under its name only when all of it is on the disk.

    Args:
        path: Destination. Its .part name is fixed, so a killed run leaves at most one behind for each name.
        data: The whole content.

    Raises:
        DiskError: The disk refused; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise DiskError(
            f"{path} cannot be written",
            got=exc.strerror,
            fix=f"{'Free some space' if exc.errno in FULL else 'Check the disk'}, then run the same command again.",
        ) from exc


class Seen:
    """Counts of photos that were looked up and not wanted, so that the next run need not ask again.

    An append-only text file. A kill can tear its last line, so what follows the last line end is cut off on opening.

    Args:
        path: The file; need not exist.

    Raises:
        OSError: The disk refused.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            os.truncate(path, len(whole))
        self.counts: dict[str, int] = {}
        for line in whole.decode("utf-8", errors="replace").splitlines():
            name, _, count = line.partition("\t")
            if count.isdecimal():
                self.counts[name] = int(count)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def add(self, name: str, count: int) -> None:
        """Remember one photo. Losing the memory costs a request, so it is not synced.

        Args:
            name: Its id.
            count: What its record says.

        Raises:
            DiskError: The disk refused.
        """
        if name in self.counts:
            return
        self.counts[name] = count
        try:
            self._file.write(f"{name}\t{count}\n")
        except OSError as exc:
            raise DiskError("seen.tsv cannot be written", got=exc.strerror, fix="Free some space.") from exc

    def close(self) -> None:
        """Write what is buffered, as far as the disk takes it."""
        try:
            self._file.close()
        except OSError:
            # Only a memory: the next run asks the bucket again.
            return
