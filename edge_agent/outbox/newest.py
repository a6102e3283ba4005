"""Which stored message is the newest of its bin, so that no older one goes to the bin's retained topic after it.

Bounded: the bins that were counted last are known, the others are not. One thread writes, any thread may ask.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge_agent.outbox.rows import StoredMessage


class NewestPerBin:
    """Id of the newest message per retained topic.

    Args:
        waiting: Of what lies in the outbox at the start: topics and ids, oldest first.
    """

    MAX_BINS = 16_384

    def __init__(self, waiting: Iterable[tuple[str, int]] = ()) -> None:
        self._ids: OrderedDict[str, int] = OrderedDict(waiting)

    def note(self, messages: Iterable[StoredMessage]) -> None:
        """Take note of messages that were just stored.

        Args:
            messages: In the order of their ids.
        """
        for message in messages:
            if message.retained_topic is not None:
                self._ids[message.retained_topic] = message.id
                self._ids.move_to_end(message.retained_topic)
        while len(self._ids) > self.MAX_BINS:
            self._ids.popitem(last=False)

    def is_newest(self, message: StoredMessage) -> bool:
        """Tell whether no newer count of the same bin was stored.

        Args:
            message: With a retained topic.

        Returns:
            False also when that is not known any more.
        """
        return self._ids.get(message.retained_topic or "") == message.id
