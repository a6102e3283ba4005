"""Root works for somebody else: what it writes into a folder belongs to the folder's owner.

A bundle lies where an engineer put it, often in a home that nobody else may enter; the store belongs to the service.
Root may read the one, and writes the other with its owner's rights alone, so that nothing in a folder of the service's
own can lead root elsewhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bundle.manifest import MANIFEST_NAME
from bundle.verify import load_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_LINKS = 40  # as Linux follows


@contextmanager
def as_owner_of(folder: Path) -> Iterator[None]:
    """Act as the owner of a folder. Changes nothing for anybody but root.

    Args:
        folder: Where files are to be written.

    Yields:
        Nothing.
    """
    owner = _owner(folder)
    if owner is None:
        yield
        return
    user, group = owner
    groups, own_group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(group)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_group)
        os.setgroups(groups)


@contextmanager
def readable_by_owner_of(folder: Path, bundle: Path) -> Iterator[Path]:
    """Give a bundle to the owner of a folder to read, as a copy for as long as this lasts, where root asks for it.

    Args:
        folder: Whose owner is to read it.
        bundle: A bundle's folder.

    Yields:
        Where the owner can read it.

    Raises:
        BundleError: It does not verify.
    """
    owner = _owner(folder)
    if owner is None:
        yield bundle
        return
    with tempfile.TemporaryDirectory(prefix="bintally-") as name:
        copy = Path(name)
        for file in (*load_bundle(bundle).manifest.files, MANIFEST_NAME):
            shutil.copyfile(bundle / file, copy / file)
            os.chown(copy / file, *owner)
        os.chown(copy, *owner)
        yield copy


def _owner(folder: Path) -> tuple[int, int] | None:
    """User and group of the first on the way that is not root's: whose it is decides what lies below.

    None where nothing is to be changed: this is not root, or everything is root's.
    """
    if os.geteuid() != 0:
        return None
    for path in _way(folder):
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            break
        if status.st_uid:
            return status.st_uid, status.st_gid
    return None


def _way(folder: Path) -> Iterator[Path]:
    """Every folder and link that is passed on the way: a link of root's may lead into somebody else's folder."""
    here, rest, links = Path(), list(folder.absolute().parts), 0
    while rest:
        name = rest.pop(0)
        if name == "..":
            here = here.parent
            continue
        here /= name  # a "/" begins anew
        yield here
        if here.is_symlink():
            links += 1
            if links > _MOST_LINKS:  # what is opened through them fails as well
                return
            rest = [*here.readlink().parts, *rest]
            here = here.parent
