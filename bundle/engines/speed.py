"""How fast engines are, measured so that they do not distort each other.

Runtimes keep threads spinning for a moment after a call. Alternating call by call charges one engine for the other's
threads, so engines take turns in blocks, and the first calls of a block are not counted. What an engine is judged by is
its best block: other work on the machine only ever adds time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from bundle.engines.base import Engine

_SETTLE = 3
_FEWEST = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: Turns of every engine.
        block_s: Length of one turn, seconds; a turn has at least 5 calls, however slow they are.
    """

    rounds: int
    block_s: float


WARM_UP = Plan(rounds=3, block_s=0.08)
"""Enough to tell a faster engine from a slower one when an agent starts."""


def timed_block(
    call: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Time one turn of calls.

    Args:
        call: What is timed.
        seconds: Length of the turn.
        clock: Monotonic seconds.

    Returns:
        Milliseconds of each call after the first three, at least five.
    """
    for _ in range(_SETTLE):
        call()
    latencies: list[float] = []
    end = clock() + seconds
    while len(latencies) < _FEWEST or clock() < end:
        started = clock()
        call()
        latencies.append((clock() - started) * 1e3)
    return latencies


def best_block_ms(
    engines: Sequence[Engine],
    tensor_nchw: NDArray[np.float32],
    plan: Plan = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Compare engines on the same input.

    Args:
        engines: Opened engines.
        tensor_nchw: float32, (N, C, H, W).
        plan: How long to measure.
        clock: Monotonic seconds.

    Returns:
        For each engine, the median latency of its best block, milliseconds.

    Raises:
        EngineError: An engine failed.
    """
    calls = [partial(engine.infer, tensor_nchw) for engine in engines]
    medians = [[float(np.median(timed_block(call, plan.block_s, clock))) for call in calls] for _ in range(plan.rounds)]
    return [min(column) for column in zip(*medians, strict=True)]
