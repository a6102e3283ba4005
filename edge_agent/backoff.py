"""Pauses between attempts: growing, bounded, and jittered so that a fleet does not return in step."""

from __future__ import annotations

import random

_GROWTH = 2.0
_MAX_STEPS = 32


class Backoff:
    """The pause before the next attempt.

    Args:
        first_s: Upper end of the first pause.
        max_s: Upper end of any pause.
        rng: Source of the jitter.
    """

    def __init__(self, first_s: float, max_s: float, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._failures = 0

    def next_s(self) -> float:
        """Count a failure.

        Returns:
            Seconds to wait: at random between half the upper end and the upper end.
        """
        upper_s = min(self._max_s, self._first_s * _GROWTH ** min(self._failures, _MAX_STEPS))
        self._failures += 1
        return self._rng.uniform(upper_s / 2, upper_s)

    def reset(self) -> None:
        """Forget the failures, after a success."""
        self._failures = 0
