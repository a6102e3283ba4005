"""Rules that say why a training is slow: pure functions over what was sampled beside it, and a verdict in words.

Open equivalents of a hosted profiler's built-in rules; defaults are those its own code sends (awslabs,
sagemaker-debugger-rulesconfig, `profiler_rules/rules.py`), which differ from its guide here and there. step_outlier
also reports with a median and its absolute deviation, which a few outliers cannot hide themselves in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from train.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train.finding import Record

_MAD_TO_SIGMA = 1.4826


def low_gpu_utilization(
    samples: Sequence[Record],
    *,
    threshold_p95: float = 70.0,
    threshold_p5: float = 10.0,
    window: int = 500,
    patience: int = 1000,
) -> list[Finding]:
    """The accelerator is under-used (95th percentile low) or fluctuates (5th percentile low).

    Args:
        samples: Records with "step" and "gpu", percent; None where there is none.
        threshold_p95: Limit for under-use, percent.
        threshold_p5: Limit for fluctuation, percent.
        window: Samples per look.
        patience: First samples that do not count: during start-up it is idle anyway.

    Returns:
        At most one finding per window.
    """
    usable = [sample for sample in samples[patience:] if sample.get("gpu") is not None]
    found = []
    for start in range(0, len(usable) - window + 1, window):
        part = usable[start : start + window]
        low, high = np.percentile([sample["gpu"] for sample in part], [5, 95])
        text = f"GPU use: 5th percentile {low:.0f} %, 95th {high:.0f} %"
        if high < threshold_p95:
            found.append(Finding("low_gpu_utilization", part[-1]["step"], "warn", f"{text}; under-used"))
        elif low < threshold_p5:
            found.append(Finding("low_gpu_utilization", part[-1]["step"], "warn", f"{text}; it fluctuates"))
    return found


def cpu_bottleneck(
    samples: Sequence[Record],
    *,
    threshold: float = 50.0,
    gpu_threshold: float = 10.0,
    cpu_threshold: float = 90.0,
    patience: int = 1000,
) -> list[Finding]:
    """In over half of the samples the accelerator idles while the processor is full.

    Args:
        samples: Records with "step", "gpu" and "cpu", percent.
        threshold: Largest share of such samples, percent.
        gpu_threshold: Below it the accelerator idles.
        cpu_threshold: Above it the processor is full.
        patience: First samples that do not count.

    Returns:
        At most one finding.
    """
    return _bottleneck(
        "cpu_bottleneck", "cpu", samples[patience:], threshold=threshold, gpu=gpu_threshold, busy=cpu_threshold
    )


def io_bottleneck(
    samples: Sequence[Record],
    *,
    threshold: float = 50.0,
    gpu_threshold: float = 10.0,
    io_threshold: float = 50.0,
    patience: int = 1000,
) -> list[Finding]:
    """In over half of the samples the accelerator idles while the processor waits for the disk.

    Args:
        samples: Records with "step", "gpu" and "io_wait", percent.
        threshold: Largest share of such samples, percent.
        gpu_threshold: Below it the accelerator idles.
        io_threshold: Above it the processor waits.
        patience: First samples that do not count.

    Returns:
        At most one finding.
    """
    return _bottleneck(
        "io_bottleneck", "io_wait", samples[patience:], threshold=threshold, gpu=gpu_threshold, busy=io_threshold
    )


def step_outlier(
    records: Sequence[Record], *, stddev: float = 3.0, n_outliers: int = 10, skip: int = 10
) -> list[Finding]:
    """Over `n_outliers` steps took longer than the mean plus `stddev` deviations.

    Args:
        records: Records with "step" and "step_s".
        stddev: Deviations.
        n_outliers: That many are tolerated.
        skip: First records, which warm up caches and compilers.

    Returns:
        At most one finding; it also says how many a median with its absolute deviation finds.
    """
    times = np.array([record["step_s"] for record in records[skip:]], dtype=np.float64)
    if len(times) <= n_outliers:
        return []
    limit = times.mean() + stddev * times.std()
    count = int((times > limit).sum())
    if count <= n_outliers:
        return []
    centre = float(np.median(times))
    robust = int((times > centre + stddev * _MAD_TO_SIGMA * float(np.median(np.abs(times - centre)))).sum())
    text = f"{count} steps took over {limit:.3f} s (mean + {stddev:g} sigma), {robust} by the median"
    return [Finding("step_outlier", records[-1]["step"], "warn", f"{text}; median {centre:.3f} s")]


def verdict(records: Sequence[Record]) -> str:
    """Say in words where the time of a step goes.

    Args:
        records: Records with "data_s" (waiting for photos) and "step_s" (the whole step).

    Returns:
        "decode-bound: 61 % of step time is waiting for photos", or "compute-bound: ...".
    """
    waited = sum(record["data_s"] for record in records)
    total = sum(record["step_s"] for record in records)
    if total <= 0:
        return "no steps were recorded"
    share = waited / total
    kind = "decode-bound" if share > 0.5 else "compute-bound"  # noqa: PLR2004 - more than half
    return f"{kind}: {share:.0%} of step time is waiting for photos"


def machine_use(samples: Sequence[Record]) -> str:
    """Say in words how busy the machine was.

    Args:
        samples: Records with "cpu", "io_wait" and "gpu", percent; "gpu" may be None.

    Returns:
        "processors 97% busy (median), 0% waiting for the disk", with the GPU where there is one; "" without samples.
    """
    if not samples:
        return ""
    words = {"cpu": "processors {:.0f}% busy (median)", "io_wait": "{:.0f}% waiting for the disk", "gpu": "GPU {:.0f}%"}
    found = []
    for key, text in words.items():
        values = [sample[key] for sample in samples if sample.get(key) is not None]
        if values:
            found.append(text.format(float(np.median(values))))
    return ", ".join(found)


def _bottleneck(
    rule: str, key: str, samples: Sequence[Record], *, threshold: float, gpu: float, busy: float
) -> list[Finding]:
    usable = [sample for sample in samples if sample.get("gpu") is not None and sample.get(key) is not None]
    if not usable:
        return []
    hits = sum(sample["gpu"] < gpu and sample[key] > busy for sample in usable)
    share = 100 * hits / len(usable)
    if share <= threshold:
        return []
    text = f"GPU below {gpu:g} % while {key} above {busy:g} % in {share:.0f} % of {len(usable)} samples"
    return [Finding(rule, usable[-1]["step"], "warn", f"{text}; limit {threshold:g} %")]
