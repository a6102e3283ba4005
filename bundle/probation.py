"""The note beside a store: has its current bundle proved itself on this robot, and which one was taken back?

```
ROOT/probation.json   which bundle, how often the agent crashed with it, the start that runs now, the last trusted one
```
A bundle that has become current is on probation until the agent has counted with it for a while. A start of the agent
that is neither followed by a good end nor by a restart of the machine was a crash; after `MAX_CRASHES` of them the next
start goes back to the last bundle that proved itself, once, and removes what came after it. The store keeps that bundle
for so long, also when others that have not proved themselves are activated meanwhile.

Only the agent writes the note, whole or not at all; it is bound to a digest, so that whoever switches the store need
not know of it. What follows from it (`started`) is pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from bundle.durable import write_json

if TYPE_CHECKING:
    from pathlib import Path

MAX_CRASHES = 3
_NAME = "probation.json"


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TakenBack(_Kept):
    """A bundle that was taken back.

    Attributes:
        digest: Its identity.
        words: What happened, one sentence.
        told: An event has said so.
    """

    digest: str
    words: str
    told: bool = False


class Note(_Kept):
    """What is known of the current bundle.

    Attributes:
        digest: Of which bundle.
        trusted: Digest of the last bundle that proved itself; this one's own when it is not on probation. The store
            keeps it.
        crashes: How often the agent crashed with it.
        running: Boot of the machine in which the agent was started last; empty when that start has ended well.
        back_to: Digest of the bundle that is being gone back to.
        taken_back: The last bundle that was taken back.
    """

    digest: str
    trusted: str
    crashes: int = 0
    running: str = ""
    back_to: str = ""
    taken_back: TakenBack | None = None

    @property
    def on_probation(self) -> bool:
        """The bundle has not proved itself yet."""
        return self.digest != self.trusted


def read_note(root: Path) -> Note | None:
    """Read the note.

    Args:
        root: Of the store.

    Returns:
        The note; None when there is none, or none that can be read.
    """
    try:
        return Note.model_validate_json((root / _NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def write_note(root: Path, note: Note) -> None:
    """Replace the note.

    Args:
        root: Of the store.
        note: The new one.

    Raises:
        OSError: The disk refused; the old note stands.
    """
    write_json(root / _NAME, note.model_dump(mode="json"))


def started(note: Note | None, current: str, boot: str, *, way_back: bool) -> Note:
    """What is known after one more start of the agent. Pure.

    Args:
        note: What was known; None trusts what is current, because nobody knows when it was activated.
        current: Digest of the current bundle.
        boot: Names the time since the machine was started.
        way_back: The bundle that the note trusts is installed. Without it there is nothing to be on probation for.

    Returns:
        The note to keep.
    """
    if note is None:
        return Note(digest=current, trusted=current)
    # When another bundle became current while one was gone back from, that one was not taken back but replaced.
    taken = note.taken_back if note.back_to in ("", current) else None
    if not way_back or current in (note.trusted, note.back_to):
        return Note(digest=current, trusted=current, taken_back=taken)
    if current == note.digest:
        crashes = note.crashes + (note.running == boot)
    else:
        crashes, taken = 0, None if taken is not None and taken.digest == current else taken
    return Note(digest=current, trusted=note.trusted, crashes=crashes, running=boot, taken_back=taken)


def taken_back(root: Path, digest: str) -> TakenBack | None:
    """Ask whether a bundle was taken back by the agent.

    Args:
        root: Of the store.
        digest: Of the bundle.

    Returns:
        What happened to it, if it did.
    """
    note = read_note(root)
    found = None if note is None else note.taken_back
    return found if found is not None and found.digest == digest else None
