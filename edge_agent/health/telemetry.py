"""Numbers about the agent's own work, in bounded memory.

Latencies go into histograms with fixed, geometric buckets: a year of frames takes as much memory as a minute, and a
quantile is right to within 2.5 %.
"""

from __future__ import annotations

import math
import threading
from collections import Counter

_FIRST_MS = 0.01
_GROWTH = 1.05
_BUCKETS = 400  # 0.01 ms * 1.05^400 = 50 minutes


class Histogram:
    """Milliseconds, for quantiles. Not locked; see `Telemetry`."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.total = 0

    def add(self, value_ms: float) -> None:
        """Note a value.

        Args:
            value_ms: Milliseconds.
        """
        bucket = 0 if value_ms <= _FIRST_MS else int(math.log(value_ms / _FIRST_MS) / math.log(_GROWTH))
        self._counts[min(bucket, _BUCKETS - 1)] += 1
        self.total += 1

    def quantile(self, share: float) -> float | None:
        """Find the value below which a share of all values lies.

        Args:
            share: 0..1.

        Returns:
            Milliseconds, None without values.
        """
        if self.total == 0:
            return None
        rank, seen = share * self.total, 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank and count:
                return round(_FIRST_MS * math.pow(_GROWTH, bucket + 0.5), 3)
        return round(_FIRST_MS * math.pow(_GROWTH, _BUCKETS), 3)


class Telemetry:
    """Counters and latencies of a run. Any thread may write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tally: Counter[str] = Counter()
        self._window: dict[str, Histogram] = {}
        self._whole: dict[str, Histogram] = {}

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter.

        Args:
            name: One of a fixed set of words.
            amount: How much.
        """
        with self._lock:
            self._tally[name] += amount

    def latency(self, stage: str, value_ms: float) -> None:
        """Note how long a stage took.

        Args:
            stage: One of a fixed set of words.
            value_ms: Milliseconds.
        """
        with self._lock:
            for histograms in (self._window, self._whole):
                if stage not in histograms:
                    histograms[stage] = Histogram()
                histograms[stage].add(value_ms)

    def tally(self) -> dict[str, int]:
        """A copy of the counters."""
        with self._lock:
            return dict(self._tally)

    def take_window(self) -> dict[str, tuple[float | None, float | None]]:
        """End the interval.

        Returns:
            Median and 99th percentile of each stage since the last call, milliseconds.
        """
        with self._lock:
            window, self._window = self._window, {}
        return {stage: (found.quantile(0.5), found.quantile(0.99)) for stage, found in window.items()}

    def whole(self, stage: str) -> tuple[float | None, float | None]:
        """Median and 99th percentile of a stage over the run, milliseconds."""
        with self._lock:
            found = self._whole.get(stage)
            return (None, None) if found is None else (found.quantile(0.5), found.quantile(0.99))
