"""What is said to the broker directly, not through the outbox: status, telemetry and discovery.

None of it is kept until it is delivered: the next one says it anew. So what a broker does not take is said shorter if
that helps, and otherwise told by other ways: in the log, in the status, in an event, and in numbers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.delivery.link import Link

_LOG = logging.getLogger(__name__)

Wordings = tuple[bytes, ...]
"""One message in ever fewer bytes; the first is the whole one."""


class Direct:
    """Chooses wordings, and knows what was refused. Belongs to the delivery thread; others may read its attributes.

    Attributes:
        refused: Why, by topic, as of the last attempt.
        refusals: How often something was refused.
    """

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        self.refusals = 0
        self._said: set[tuple[str, str]] = set()

    def choose(self, link: Link, topic: str, wordings: Wordings) -> bytes | None:
        """Find the longest wording that a broker takes.

        Args:
            link: To the broker.
            topic: Where to.
            wordings: Of the message.

        Returns:
            The payload; None when even the shortest is too long, which is noted.
        """
        why = link.objection(topic, wordings[0])
        if why is None:
            return wordings[0]
        for payload in wordings[1:]:
            if link.objection(topic, payload) is None:
                self._say_once(topic, f"it is sent shorter: {why}")
                return payload
        self.refuse(topic, why)
        return None

    def refuse(self, topic: str, why: str) -> None:
        """Note that a message was refused.

        Args:
            topic: Of the message.
            why: In the broker's words, or in ours.
        """
        self.refusals += 1
        self.refused = {**self.refused, topic: why}  # another mapping: another thread may be going through this one
        self._say_once(topic, f"the broker refuses it: {why}")

    def took(self, topic: str) -> None:
        """Note that a message was taken.

        Args:
            topic: Of the message.
        """
        if topic in self.refused:
            self.refused = {other: why for other, why in self.refused.items() if other != topic}

    def _say_once(self, topic: str, words: str) -> None:
        """The next message is made soon, and what a broker says of one it says of the next."""
        if (topic, words) not in self._said:
            self._said.add((topic, words))
            _LOG.error("%s: %s", topic, words)
