"""What the broker refuses for now: it waits, in order, and is tried again after growing pauses for as long as it takes.

Invariants:
- Counts of one bin keep their order, and so does every other topic: behind a message that was refused, the later ones
  of its stream wait.
- While a topic is refused, one message at a time is tried, each time of another stream if there is one: a message that
  is never taken holds up its own stream alone, and other topics not at all.
- What waits is bounded. It lies in the outbox as well, where age and room bound it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from edge_agent.outbox.rows import StoredMessage

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_TOLD_AFTER = 3
"""Refusals in a row: a quota that is exceeded for a moment is not worth a status."""


@dataclass(slots=True)
class _Pause:
    """Grows with every refusal in a row."""

    kind: str
    backoff: Backoff = field(default_factory=lambda: Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S))
    until_s: float = 0.0
    refusals: int = 0
    words: str = ""

    def refuse(self, now_s: float, words: str) -> None:
        self.words = words
        if now_s < self.until_s < math.inf:
            return  # it was sent before the refusal that is being waited for
        self.until_s = now_s + self.backoff.next_s()
        self.refusals += 1


@dataclass(slots=True)
class _Stream:
    """Messages that keep their order; the first may be under way."""

    pause: _Pause
    rows: deque[StoredMessage] = field(default_factory=deque)


def stream_of(message: StoredMessage) -> str:
    """Name what keeps its order: the counts of one bin, or whatever has the message's topic.

    Args:
        message: Any.

    Returns:
        The same for messages that may not overtake each other.
    """
    return message.retained_topic or message.topic


class Held:
    """Messages that wait for a broker which refuses them. Belongs to one thread.

    Args:
        clock: Monotonic seconds.
    """

    MAX_ROWS = 4096

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows = 0
        self._streams: dict[str, _Stream] = {}
        self._topics: dict[str, _Pause] = {}

    @property
    def has_room(self) -> bool:
        """More may wait."""
        return self._rows < self.MAX_ROWS

    def holds(self, message: StoredMessage) -> bool:
        """Tell whether an earlier message of the stream was refused and is not delivered yet.

        Args:
            message: Any.
        """
        return stream_of(message) in self._streams

    def admit(self, message: StoredMessage) -> bool:
        """Judge a message that was not sent yet.

        Args:
            message: Not held.

        Returns:
            Whether to send it now; otherwise it waits here.
        """
        if not self.holds(message) and self._is_open(message.topic):
            self._try(message.topic)
            return True
        self._stream(message).rows.append(message)
        self._rows += 1
        return False

    def refuse(self, message: StoredMessage, words: str) -> None:
        """Take a message back.

        Args:
            message: Was sent, and is the first of its stream.
            words: The broker's.
        """
        stream = self._stream(message)
        stream.rows.appendleft(message)
        self._rows += 1
        for pause in (stream.pause, self._topics.setdefault(message.topic, _Pause(message.kind))):
            pause.refuse(self._clock(), words)

    def settle(self, message: StoredMessage) -> None:
        """Note that the broker took a message, or will never take it: what waits for it may go.

        Args:
            message: Was sent.
        """
        self._topics.pop(message.topic, None)
        stream = self._streams.get(stream_of(message))
        if stream is not None and stream.rows:
            stream.pause = _Pause(message.kind)
        elif stream is not None:
            del self._streams[stream_of(message)]

    def take(self, busy: Container[str]) -> StoredMessage | None:
        """Take the message that may be tried now: of a stream that was refused less than others, then the oldest.

        Args:
            busy: Streams of which a message is under way.

        Returns:
            The message, None when there is none.
        """
        now_s = self._clock()
        ready = [
            (stream.pause.refusals, stream.rows[0].id, stream)
            for name, stream in self._streams.items()
            if stream.rows
            and stream.pause.until_s <= now_s
            and name not in busy
            and self._is_open(stream.rows[0].topic)
        ]
        if not ready:
            return None
        _, _, stream = min(ready)  # ids are never equal
        message = stream.rows.popleft()
        self._rows -= 1
        self._try(message.topic)
        return message

    def words(self) -> tuple[str, ...]:
        """Say what is refused again and again, one sentence for each kind of message."""
        pauses = [*(stream.pause for stream in self._streams.values()), *self._topics.values()]
        found = {pause.kind: pause.words for pause in pauses if pause.refusals >= _TOLD_AFTER}
        return tuple(f"broker: it refuses {kind}s: {words}" for kind, words in sorted(found.items()))

    def _stream(self, message: StoredMessage) -> _Stream:
        return self._streams.setdefault(stream_of(message), _Stream(_Pause(message.kind)))

    def _is_open(self, topic: str) -> bool:
        pause = self._topics.get(topic)
        return pause is None or pause.until_s <= self._clock()

    def _try(self, topic: str) -> None:
        """One at a time, until the broker has answered."""
        pause = self._topics.get(topic)
        if pause is not None:
            pause.until_s = math.inf
