"""What the system says about writing, in words that tell who must act: a full disk may pass, a wrong folder not."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bundle.errors import ConfigError, DeliveryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that go away once there is space."""


class DiskError(DeliveryError):
    """The disk does not take a file."""


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Translate the errors of writing into a folder or a file.

    Args:
        place: What is written, for the message.

    Yields:
        Once; the body should do nothing but write.

    Raises:
        DiskError: There is no space left.
        ConfigError: The place cannot be written at all: not a folder, read-only, somebody else's.
    """
    try:
        yield
    except OSError as exc:
        what, got = f"{place} cannot be written", exc.strerror or str(exc)
        if exc.errno in FULL:
            raise DiskError(what, got=got, fix="Free some space, then run the same command again.") from exc
        raise ConfigError(
            what,
            got=got,
            expected="a place that this user may write to",
            fix="Choose another one, or change its owner or mode.",
        ) from exc
