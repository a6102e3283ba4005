"""Where a source of files is read on after its capture process was lost, and which picture is left out."""

from __future__ import annotations

from typing import Literal

_MAX_SILENT_STARTS = 5


class Attempts:
    """How far a source was read, over all its capture processes.

    Attributes:
        next_index: Number of the first picture that was not handed over yet.
    """

    def __init__(self) -> None:
        self.next_index = 0
        self._suspect: int | None = None
        self._silent_starts = 0

    def arrived(self, index: int) -> None:
        """Note a picture that was handed over, or refused.

        Args:
            index: Its number.
        """
        self._silent_starts = 0
        self.next_index = index + 1

    def lost(self, cursor: int, *, heard: bool) -> Literal["again", "poisoned", "hopeless"]:
        """Decide how to go on after a process was lost.

        Args:
            cursor: Number of the picture that it worked on; below `next_index` when it worked on none. Above, pictures
                before it were not handed over: it is not suspected, or they would be left out with it.
            heard: It has sent something since its start.

        Returns:
            "again"; "poisoned" when it was lost at this picture twice, which is left out from now on; "hopeless" when
            it never came as far as a picture in several starts.
        """
        at_work = cursor if cursor == self.next_index else None
        poisoned = at_work is not None and at_work == self._suspect
        self._suspect = at_work
        self._silent_starts += not heard and at_work is None
        if poisoned:
            self.next_index = cursor + 1
            return "poisoned"
        return "hopeless" if self._silent_starts >= _MAX_SILENT_STARTS else "again"
