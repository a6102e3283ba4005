"""How fast and how right each engine is on this machine; each engine in a process of its own.

`latency` is one frame through `Engine.infer`, preprocessing not included, as the agent calls it.
"""

from __future__ import annotations

import logging
import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.engines.child import in_child
from bundle.engines.choose import open_engine
from bundle.engines.speed import timed_block
from bundle.errors import EngineError
from bundle.golden import read_golden
from bundle.preprocess import preprocess
from bundle.verify import load_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bundle.engines.base import Engine
    from bundle.engines.child import Say
    from bundle.verify import Bundle

_OPEN_LIMIT_S = 3600.0
"""A TensorRT engine may take many minutes to build on a small board."""


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure.

    Attributes:
        threads: Threads of the runtime; None leaves it to the runtime.
        seconds: Time per engine and batch size.
        batches: Batch sizes; latency is of batch 1, throughput of each.
    """

    threads: int | None = None
    seconds: float = 2.0
    batches: tuple[int, ...] = (1, 4)


def bench_engines(bundle: Path, engines: Sequence[str], plan: BenchPlan, *, say: Say) -> list[dict[str, Any]]:
    """Measure engines one after the other.

    Args:
        bundle: Folder of a verified bundle.
        engines: Names of `bundle.engines.choose.ENGINES`.
        plan: What to measure.
        say: Told what happens.

    Returns:
        A row per engine, see `measure_engine`; or engine and error, for one that does not run here.
    """
    rows = []
    for name in engines:
        say(f"measuring {name}")
        try:
            rows.append(in_child(measure_engine, bundle, name, plan, timeout_s=_OPEN_LIMIT_S, say=say))
        except EngineError as exc:
            rows.append({"engine": name, "error": str(exc)})
    return rows


def measure_engine(say: Say, path: Path, name: str, plan: BenchPlan) -> dict[str, Any]:
    """Measure one engine in this process.

    Args:
        say: Told what happens.
        path: Folder of the bundle.
        name: Of the engine.
        plan: What to measure.

    Returns:
        engine, name, role, precision, open_s (cold: runtime's import, and the build unless a built engine lay in the
        cache), reopen_s (warm), built_s (None where nothing is built), golden_max_abs_logit, latency_ms (p50, p90, p99,
        calls), frames_per_s by batch size, rss_mb (how far the process's peak grew), reason.

    Raises:
        BintallyError: The engine does not run here.
    """
    forward_log(say)
    bundle = load_bundle(path)
    before_mb, started = _rss_mb(), time.monotonic()
    engine = open_engine(bundle, engine=name, threads=plan.threads)
    open_s = time.monotonic() - started
    engine.close()
    started = time.monotonic()
    with open_engine(bundle, engine=name, threads=plan.threads) as engine:
        reopen_s = time.monotonic() - started
        say(f"{engine.name}: opened in {open_s:.1f} s, golden frames within {engine.golden_error:.2g}")
        blocks = {batch: timed_batch(bundle, engine, batch, plan.seconds) for batch in {1, *plan.batches}}
        return {
            "engine": name,
            "name": engine.name,
            "role": engine.role,
            "precision": engine.precision,
            "open_s": round(open_s, 3),
            "reopen_s": round(reopen_s, 3),
            "built_s": engine.built_s,
            "golden_max_abs_logit": engine.golden_error,
            "latency_ms": percentiles(blocks[1]),
            "frames_per_s": {
                str(batch): round(batch * 1e3 / float(np.mean(block)), 1) for batch, block in sorted(blocks.items())
            },
            "rss_mb": round(_rss_mb() - before_mb, 1),
            "reason": engine.reason,
        }


def forward_log(say: Say) -> None:
    """Let engines that take long to open say how far they are.

    Args:
        say: Told every line that engines log in this process.
    """

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logger = logging.getLogger("bundle.engines")
    logger.setLevel(logging.INFO)
    logger.addHandler(Forward())
    logger.propagate = False


def timed_batch(bundle: Bundle, engine: Engine, batch: int, seconds: float) -> list[float]:
    """Run the golden frames for a while.

    Args:
        bundle: The engine's.
        engine: Opened.
        batch: Frames per call.
        seconds: How long.

    Returns:
        Milliseconds per call.

    Raises:
        EngineError: The engine failed.
    """
    golden = read_golden(bundle, engine.role)
    frames = [preprocess(frame, bundle.manifest.preprocessing) for frame in golden.frames]
    tensor = np.stack([frames[i % len(frames)] for i in range(batch)])
    return timed_block(lambda: engine.infer(tensor), seconds)


def percentiles(latencies_ms: Sequence[float]) -> dict[str, float]:
    """Sum up latencies.

    Args:
        latencies_ms: At least one.

    Returns:
        p50, p90, p99 in milliseconds, and calls.
    """
    p50, p90, p99 = (round(float(value), 3) for value in np.percentile(latencies_ms, (50, 90, 99)))
    return {"p50": p50, "p90": p90, "p99": p99, "calls": len(latencies_ms)}


def _rss_mb() -> float:
    """Peak resident memory of this process, MB (Linux counts it in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def works(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether any engine ran.

    Args:
        rows: Of `bench_engines`.

    Returns:
        True when at least one row has no error.
    """
    return any("error" not in row for row in rows)
