"""Delivery of images: one after the other, each removed from the outbox only after the store confirmed it.

The image goes first, its sidecar second, so that a reader who finds a sidecar finds its image.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

from bundle.durable import write_bytes
from bundle.errors import DeliveryError
from edge_agent.backoff import Backoff
from edge_agent.threads import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.outbox.outbox import Outbox
    from edge_agent.outbox.rows import StoredImage
    from edge_agent.outbox.spool import Spool

_LOG = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.25
_WAIT_S = 0.5
_FOLDER_FIX = (
    "Check uploads.folder and its rights. The service may write outside /var/lib/bintally only where the unit has "
    'ReadWritePaths= (docs/operations.md, "The disk").'
)
_PNG_START = b"\x89PNG"


class UploadError(DeliveryError):
    """An object was not stored.

    Args:
        what: See `DeliveryError`.
        got: See `DeliveryError`.
        fix: See `DeliveryError`.
        object_refused: The store will never take this object; others may go.
    """

    def __init__(self, what: str, *, got: object = None, fix: str | None = None, object_refused: bool = False) -> None:
        super().__init__(what, got=got, fix=fix)
        self.object_refused = object_refused


class Target(Protocol):
    """Where images go.

    Attributes:
        name: For messages.
    """

    name: str

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store an object, or find it there already.

        Args:
            key: The key.
            data: The object.
            content_type: Its type.

        Raises:
            UploadError: It is not stored.
        """
        ...


class FolderTarget:
    """A plain folder, for robots whose site collects images in another way.

    Args:
        folder: Created when missing.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store an object; see `Target.put`."""
        del content_type
        file = self._folder / key
        try:
            if file.is_file() and file.read_bytes() == data:
                return  # a kill came between the file and the outbox
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, data)
        except OSError as exc:
            raise UploadError(f"{file} cannot be written", got=exc.strerror, fix=_FOLDER_FIX) from exc


def image_key(prefix: str, data: bytes) -> str:
    """Name an image by its content.

    Args:
        prefix: Folders in front of it, without a slash at the end; may be empty.
        data: The image file.

    Returns:
        The key that it will have.
    """
    suffix = "png" if data.startswith(_PNG_START) else "jpg"
    name = f"{hashlib.sha256(data).hexdigest()}.{suffix}"
    return f"{prefix}/{name}" if prefix else name


class Uploader:
    """The delivery thread for images.

    Args:
        target: Where to.
        outbox: What to upload.
        spool: Where the images lie.
        retry_max_s: Longest pause between attempts.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        target: Target,
        outbox: Outbox,
        spool: Spool,
        *,
        retry_max_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uploaded = 0
        self.refused = 0
        self._target = target
        self._outbox = outbox
        self._spool = spool
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._current: StoredImage | None = None
        self.worker = Worker(
            "uploads", self._work, backoff=Backoff(_FIRST_PAUSE_S, retry_max_s), stop=self._stop, clock=clock
        )
        outbox.images.wake = self._wake.set

    def finish(self, timeout_s: float) -> bool:
        """End the thread after the object that it is at.

        Args:
            timeout_s: How long that may take.

        Returns:
            Whether it ended.
        """
        self._stop.set()
        self._wake.set()
        return self.worker.join(timeout_s)

    def _work(self) -> None:
        while not self._stop.is_set():
            self.worker.tick()
            if self._current is None:
                self._current = next(iter(self._outbox.images.take(1)), None)
            if self._current is None:
                self._wake.wait(_WAIT_S)
                self._wake.clear()
                continue
            self._upload(self._current)
            self._current = None

    def _upload(self, image: StoredImage) -> None:
        data = self._spool.read(image.event_id)
        if data is None or image.key != image_key(image.key.rpartition("/")[0], data):
            # Evicted meanwhile, or its bytes changed on disk: what is not what was stored is never uploaded.
            self._outbox.image_lost(image, "images_damaged")
            return
        try:
            content_type = "image/png" if image.key.endswith(".png") else "image/jpeg"
            self._target.put(image.key, data, content_type)
            self._target.put(f"{image.key.rpartition('.')[0]}.json", image.sidecar, "application/json")
        except UploadError as exc:
            if not exc.object_refused:
                raise
            _LOG.error("%s", exc)
            self.refused += 1
            self._outbox.image_lost(image, "images_refused")
            return
        self.uploaded += 1
        self.worker.succeeded()
        self._outbox.uploaded(image)
