"""What the outbox stores: entries on their way in, rows on their way out."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass, field
from typing import Literal

MessageKind = Literal["count", "event"]


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image to be uploaded.

    Attributes:
        key: Where to.
        data: The file.
        sidecar: JSON that goes beside it.
    """

    key: str
    data: bytes = field(repr=False)
    sidecar: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the frame path hands over: a message, perhaps with an image.

    Attributes:
        event_id: For the consumer, to drop repeats.
        kind: "count" or "event".
        topic: Where to publish.
        payload: JSON.
        retained_topic: Where to publish the same payload again, retained; None for events.
        image: Stored in the same transaction.
        captured_mono_s: Monotonic time of capture, for the latency; None for events.
    """

    event_id: str
    kind: MessageKind
    topic: str
    payload: bytes = field(repr=False)
    retained_topic: str | None = None
    image: ImageEntry | None = None
    captured_mono_s: float | None = None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message that waits to be published.

    Attributes:
        id: Grows with every message; the order of delivery.
        event_id: As in `Entry`.
        kind: As in `Entry`.
        topic: As in `Entry`.
        retained_topic: As in `Entry`.
        payload: As in `Entry`.
        created_up_s: Agent running time when it was stored.
    """

    id: int
    event_id: str
    kind: MessageKind
    topic: str
    retained_topic: str | None
    payload: bytes = field(repr=False)
    created_up_s: float


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that waits to be uploaded; its bytes lie in a file named by `event_id`.

    Attributes:
        id: Grows with every image; the order of upload and of eviction.
        event_id: Of the count that it belongs to.
        key: Where to upload it.
        size: Bytes.
        sidecar: JSON that goes beside it.
        created_up_s: Agent running time when it was stored.
    """

    id: int
    event_id: str
    key: str
    size: int
    sidecar: bytes = field(repr=False)
    created_up_s: float


def checksum(row: StoredMessage | StoredImage) -> bytes:
    """Checksum over every value of a row but its id, which a rescue may change.

    Args:
        row: Any row.

    Returns:
        8 bytes.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in astuple(row)[1:]:
        data = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.digest()
