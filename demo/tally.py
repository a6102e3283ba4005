"""What a tour adds up: visits as they arrive, and the summary at the end. Pure but for its own sums."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bundle.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_LATENCIES = 20_000


@dataclass(frozen=True, slots=True)
class Visit:
    """One count, as a row of the table.

    Attributes:
        bin_id: Which bin.
        label: The count, "6+" for an open one.
        confidence: 0..1.
        confident: Above the bundle's threshold.
        verdict: Against the record, None without one.
        record: What the inventory system expected.
        latency_ms: From picture to decision, as the agent measured it.
        truth: Items that were rendered, None where nobody knows.
        right: Whether the count is the truth; None where nobody knows.
    """

    bin_id: str
    label: str
    confidence: float
    confident: bool
    verdict: str | None
    record: int | None
    latency_ms: float
    truth: int | None
    right: bool | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a tour; field by field what `--json` prints.

    Attributes:
        frames: Pictures that the agent saw.
        accepted: Counts that the agent wrote to its outbox, so promised to deliver.
        received: Distinct counts that reached the independent subscriber.
        lost: accepted - received.
        unsure: Counts below the bundle's threshold.
        uploaded: Images listed in the bucket.
        accuracy: Share of counts that are exactly the rendered truth; None without one.
        p50_ms: Median latency of a visit; None without visits.
        p99_ms: Its 99th percentile.
    """

    frames: int
    accepted: int
    received: int
    lost: int
    unsure: int
    uploaded: int
    accuracy: float | None
    p50_ms: float | None
    p99_ms: float | None


class Tally:
    """Adds up visits.

    Args:
        truth: Items per bin_id; empty where nobody knows.

    Attributes:
        visits: Number so far.
        unsure: How many of them are below the threshold.
        verdicts: How many of each verdict.
    """

    def __init__(self, truth: Mapping[str, int]) -> None:
        self._truth = truth
        self.visits = 0
        self.unsure = 0
        self.verdicts: Counter[str] = Counter()
        self._judged = 0
        self._right = 0
        self._latencies: deque[float] = deque(maxlen=_MAX_LATENCIES)

    def add(self, content: Mapping[str, Any]) -> Visit:
        """Add one `count` message.

        Args:
            content: The message.

        Returns:
            Its row.

        Raises:
            DeliveryError: It misses a field that docs/mqtt.md promises.
        """
        try:
            visit = self._visit(content)
        except (KeyError, TypeError, ValueError) as exc:
            raise DeliveryError("a count message misses what docs/mqtt.md promises", got=repr(exc)) from exc
        self.visits += 1
        self.unsure += not visit.confident
        self.verdicts.update([visit.verdict] if visit.verdict else [])
        if visit.right is not None:
            self._judged += 1
            self._right += visit.right
        self._latencies.append(visit.latency_ms)
        return visit

    @property
    def accuracy(self) -> float | None:
        """Share of counts that are exactly the truth, None where nobody knows."""
        return self._right / self._judged if self._judged else None

    def summary(self, *, frames: int, accepted: int, received: int, uploaded: int) -> Summary:
        """Close the books.

        Args:
            frames: Pictures that the agent saw.
            accepted: Counts in its outbox.
            received: Distinct counts that arrived.
            uploaded: Images in the bucket.

        Returns:
            The summary.
        """
        ordered = sorted(self._latencies)
        return Summary(
            frames=frames,
            accepted=accepted,
            received=received,
            lost=accepted - received,
            unsure=self.unsure,
            uploaded=uploaded,
            accuracy=None if self.accuracy is None else round(self.accuracy, 4),
            p50_ms=_rank(ordered, 0.5),
            p99_ms=_rank(ordered, 0.99),
        )

    def _visit(self, content: Mapping[str, Any]) -> Visit:
        bin_id, count = str(content["bin_id"]), int(content["count"])
        truth = self._truth.get(bin_id)
        return Visit(
            bin_id=bin_id,
            label=str(content["label"]),
            confidence=float(content["confidence"]),
            confident=bool(content["confident"]),
            verdict=content["verdict"],
            record=content["record"],
            latency_ms=float(content["latency_ms"]),
            truth=truth,
            right=None if truth is None else is_right(count, truth, at_least=bool(content["at_least"])),
        )


def is_right(count: int, truth: int, *, at_least: bool) -> bool:
    """Judge a count.

    Args:
        count: What was reported.
        truth: What is there.
        at_least: The count is an open one: "6+" is right for 6, 7, 8.

    Returns:
        Whether it is exactly right.
    """
    return truth >= count if at_least else truth == count


def _rank(ordered: list[float], share: float) -> float | None:
    """Nearest rank: a latency that was measured, never one between two."""
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3) if ordered else None
