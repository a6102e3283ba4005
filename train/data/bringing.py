"""Photos into the dataset folder, as hard links or copies.

```
DATASET/
  photos-0123456789abcdef/   named after the paths and hashes of all photos in it
```
Invariants:
- Other photos go into another folder. So the photos of the dataset that is being replaced are never touched, and an
  import that was interrupted leaves it as it was.
- A photo has its name only when it is whole: .part -> hash checked -> fsync -> rename. All names are synced before the
  folder is returned, so a manifest written afterwards never outlives its photos.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bundle import durable, images
from bundle.errors import ConfigError, InputError
from train.data import columns
from train.data.disk import FULL, writing

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

_OURS = re.compile(r"photos-[0-9a-f]{16}")


def bring_photos(
    image_root: Path,
    table: pa.Table,
    out: Path,
    *,
    files: Literal["link", "copy"],
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Link or copy the photos of a manifest into the dataset folder.

    Args:
        image_root: Folder that the manifest's paths start from.
        table: The manifest.
        out: The dataset folder; must exist.
        files: How.
        on_progress: Called with (photos done, photos in all).

    Returns:
        The folder that the paths now start from.

    Raises:
        InputError: A photo vanished, or changed since it was hashed.
        ConfigError: `out` cannot be written, or hard links do not reach it.
        DiskError: The disk is full.
    """
    paths, hashes = (columns.column(table, name) for name in ("path", "sha256"))
    target = out / f"photos-{_fingerprint(image_root, paths, hashes)}"
    with writing(out):
        for done, (path, sha256) in enumerate(zip(paths.to_pylist(), hashes.to_pylist(), strict=True), start=1):
            wanted = target / path
            wanted.parent.mkdir(parents=True, exist_ok=True)
            part = wanted.with_name(f".{wanted.name}.part")
            part.unlink(missing_ok=True)
            if files == "link":
                _link(image_root / path, part)
            else:
                _copy(image_root / path, part, sha256)
            part.replace(wanted)
            # Renaming one link of a file onto another does nothing, by POSIX, and would leave this one behind.
            part.unlink(missing_ok=True)
            if on_progress is not None:
                on_progress(done, len(paths))
        for folder, _, _ in os.walk(target):
            durable.fsync_dir(Path(folder))
        durable.fsync_dir(out)
    return target


def remove_other_photos(out: Path, *, kept: Path, source: Path) -> None:
    """Remove the photo folders of datasets that were replaced and of imports that were interrupted.

    Args:
        out: The dataset folder.
        kept: Where the photos of the dataset lie now.
        source: What was imported; what lies in or around it stays.
    """
    for folder in out.iterdir():
        if _OURS.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            used = [kept.resolve(), source.resolve()]
            here = folder.resolve()
            if not any(place.is_relative_to(here) or here.is_relative_to(place) for place in used):
                # What cannot be removed costs space and nothing else; the next import tries again.
                shutil.rmtree(folder, ignore_errors=True)


def _fingerprint(image_root: Path, paths: pa.Array, hashes: pa.Array) -> str:
    """Name a set of photos: equal names only for equal photos at equal paths."""
    digest = hashlib.sha256()
    for path, sha256 in zip(paths.to_pylist(), hashes.to_pylist(), strict=True):
        digest.update(f"{path}\0{sha256 or _version(image_root / path)}\0".encode())
    return digest.hexdigest()[:16]


def _version(photo: Path) -> str:
    """Tell versions of a photo apart that nobody opened."""
    try:
        found = photo.stat()
    except OSError as exc:
        raise _unreadable(photo, exc) from exc
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_ctime_ns}"


def _link(source: Path, part: Path) -> None:
    try:
        os.link(source, part)
    except FileNotFoundError as exc:
        raise _unreadable(source, exc) from exc
    except OSError as exc:
        if exc.errno in FULL:
            raise
        raise ConfigError(
            f"{source} cannot be linked into {part.parent}",
            got=exc.strerror,
            expected="two folders of one file system that has hard links",
            fix="Use --files copy.",
        ) from exc


def _copy(source: Path, part: Path, sha256: str) -> None:
    data = images.read_bytes(source)
    found = hashlib.sha256(data).hexdigest()
    if sha256 not in {"", found}:
        raise InputError(
            f"{source} changed while it was imported",
            got=f"sha256 {found}",
            expected=sha256,
            fix="Import again when nothing writes into the source.",
        )
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _unreadable(photo: Path, exc: OSError) -> InputError:
    return InputError(f"{photo} cannot be read", got=exc.strerror, fix="Import again when the source is complete.")
