"""Which counter counts, and which old one still does: a visit is counted to its end with the one that it began with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bundle.counter import Counter


class Counters:
    """The counter of the next visit, and those that open visits still need.

    Args:
        counter: The first one; closed by `close`, as every other.

    Attributes:
        current: What counts from the next visit on.
    """

    def __init__(self, counter: Counter) -> None:
        self.current = counter
        self._old: list[Counter] = []

    def swap(self, counter: Counter) -> None:
        """Count with another counter from the next visit on.

        Args:
            counter: The new one.
        """
        self._old.append(self.current)
        self.current = counter

    def close_unused(self, needed: Iterable[Counter | None]) -> None:
        """Free old counters.

        Args:
            needed: Those of the open visits.
        """
        if not self._old:
            return
        kept = {id(counter) for counter in needed}
        for counter in [one for one in self._old if id(one) not in kept]:
            self._old.remove(counter)
            counter.close()

    def close(self) -> None:
        """Free every counter."""
        for counter in (self.current, *self._old):
            counter.close()
        self._old = []
