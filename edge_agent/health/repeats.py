"""What comes again and again is said so often and then held back, so that no fault can flood the outbox and the broker.

A token bucket for each kind: so many at once, then one now and then, which says how many were held back before it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class TokenBucket:
    """So many at once, so many a second.

    Attributes:
        rate: Tokens a second.
        burst: Tokens at most.
        tokens: Tokens now.
        at_s: Monotonic time of the last look.
    """

    rate: float
    burst: float
    tokens: float
    at_s: float

    def take(self, now_s: float) -> bool:
        """Take a token, if there is one.

        Args:
            now_s: Monotonic seconds.

        Returns:
            Whether there was one.
        """
        self.tokens = min(self.burst, self.tokens + max(0.0, now_s - self.at_s) * self.rate)
        self.at_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Repeats:
    """Lets so many of each kind pass.

    Args:
        rate: Of one kind, a second.
        burst: Of one kind, at once.
        clock: Monotonic seconds.
    """

    def __init__(self, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._held: dict[str, int] = {}

    def admit(self, kind: str) -> int | None:
        """Ask whether one more may be said.

        Args:
            kind: One of a fixed set of words.

        Returns:
            How many were held back since the last one that was said; None when this one is held back, too.
        """
        now_s = self._clock()
        bucket = self._buckets.setdefault(kind, TokenBucket(self._rate, self._burst, self._burst, now_s))
        if bucket.take(now_s):
            return self._held.pop(kind, 0)
        self._held[kind] = self._held.get(kind, 0) + 1
        return None
