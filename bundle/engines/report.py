"""Figures of engines as text. Pure: rows of `bundle.engines.bench` in, lines out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEAD = ("engine", "p50 ms", "p99 ms", "frames/s", "batched", "built s", "opens s", "again s", "RSS MB", "golden")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay rows out as a table, failures below it.

    Args:
        rows: Of `bundle.engines.bench.bench_engines`.

    Returns:
        Lines.
    """
    cells = [_HEAD, *(_cells(row) for row in rows if "error" not in row)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = [
        "  ".join(text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]
    lines += [f"{row['engine']}: {row['error']}" for row in rows if "error" in row]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    latency, throughput = row["latency_ms"], row["frames_per_s"]
    largest = max(throughput, key=int)
    return (
        row["name"],
        f"{latency['p50']:.2f}",
        f"{latency['p99']:.2f}",
        f"{throughput['1']:.0f}",
        f"{throughput[largest]:.0f} (x{largest})",
        "" if row["built_s"] is None else f"{row['built_s']:.0f}",
        f"{row['open_s']:.2f}",
        f"{row['reopen_s']:.2f}",
        f"{row['rss_mb']:.0f}",
        f"{row['golden_max_abs_logit']:.2g}",
    )


def machine_lines(machine: Mapping[str, object]) -> str:
    """The machine as text.

    Args:
        machine: Of `bundle.engines.machine.describe_machine`.

    Returns:
        Lines "key  value", empty ones left out.
    """
    return "\n".join(f"{key:<14}{_plain(value)}" for key, value in machine.items() if value not in (None, "", [], {}))


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {text}" for key, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
