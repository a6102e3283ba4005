"""What the outbox stores: entries on their way in, rows on their way out."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from edge_agent.outbox.quota import Spent

MessageKind = Literal["count", "event", "result"]


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image to be uploaded.

    Attributes:
        key: Where to.
        data: The file.
        sidecar: JSON that goes beside it.
        spent: What it takes from the quotas, stored in the same transaction; None for what has none.
    """

    key: str
    data: bytes = field(repr=False)
    sidecar: bytes = field(repr=False)
    spent: Spent | None = None


@dataclass(frozen=True, slots=True)
class CommandRecord:
    """How far a command has come; stored in one transaction with the message that says so.

    Attributes:
        command_id: Of the command.
        name: What it asks for.
        state: "accepted", "running", "succeeded", "failed" or "refused".
        expires_s: Wall clock of its expiry, or of its end if that is later: soon after, it may be forgotten.
        request: The command as it came, for as long as it is not over.
    """

    command_id: str
    name: str
    state: str
    expires_s: float
    request: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is handed over to the outbox: a message, perhaps with an image.

    Attributes:
        event_id: For the consumer, to drop repeats.
        kind: "count", "event", or "result" of a command.
        topic: Where to publish.
        payload: JSON.
        retained_topic: Where to publish the same payload again, retained; None for all but counts.
        image: Stored in the same transaction.
        captured_mono_s: Monotonic time of capture, for the latency; None for all but counts.
        command: Which command this is a result of.
        settings: The agent's settings from now on, as JSON, when a command changed them.
        companions: Stored in the same transaction: all or none.
    """

    event_id: str
    kind: MessageKind
    topic: str
    payload: bytes = field(repr=False)
    retained_topic: str | None = None
    image: ImageEntry | None = None
    captured_mono_s: float | None = None
    command: CommandRecord | None = None
    settings: bytes | None = field(default=None, repr=False)
    companions: tuple[Entry, ...] = ()


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


Row = TypeVar("Row", StoredMessage, StoredImage)


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows in order.

    Attributes:
        rows: Those whose checksum is right.
        damaged: Ids of the others.
        last_id: Highest id that was read, 0 when there was none.
    """

    rows: list[Row]
    damaged: list[int]
    last_id: int


def page_of(found: list[tuple[Row, object]]) -> Page[Row]:
    """Check rows.

    Args:
        found: Rows as read, each with the checksum that stands beside it.

    Returns:
        The page.
    """
    good = [row for row, expected in found if checksum(row) == expected]
    damaged = [row.id for row, expected in found if checksum(row) != expected]
    return Page(good, damaged, found[-1][0].id if found else 0)
