"""The look of a tuning: one page with the table of trials and a picture per searched key."""

from __future__ import annotations

import math
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from train.data.charts import Frame, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train.tune import TrialResult

_DECADES_FOR_LOG = 1.5


def render(name: str, metric: str, rows: Sequence[TrialResult]) -> str:
    """Make the page.

    Args:
        name: Of the study.
        metric: Which figure decides.
        rows: The trials, best first.

    Returns:
        A whole HTML document that needs no other file and no network.
    """
    style = resources.files("train.data").joinpath("report.css").read_text(encoding="utf-8")
    keys = sorted({key for row in rows for key in row.params})
    charts = "".join(f"<section><h2>{escape(key)}</h2><p></p>{_scatter(key, metric, rows)}</section>" for key in keys)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(name)}: tuning</title><style>{style}</style></head><body><main><h1>{escape(name)}</h1>"
        f"<p>{len(rows)} trials by {escape(metric)}, best first</p><section>{_table(keys, metric, rows)}</section>"
        f'<div class="two">{charts}</div></main></body></html>\n'
    )


def _table(keys: Sequence[str], metric: str, rows: Sequence[TrialResult]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in ("trial", "state", metric, "epochs", *keys))
    body = "".join(
        f'<tr title="{escape(row.why)}"><td>{row.number}</td><td>{escape(row.state)}</td><td>{_value(row.value)}</td>'
        f"<td>{row.epochs}</td>{''.join(f'<td>{_value(row.params.get(key))}</td>' for key in keys)}</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape("" if value is None else str(value))


def _scatter(key: str, metric: str, rows: Sequence[TrialResult]) -> str:
    points = [(row.params[key], row.value, row) for row in rows if key in row.params and row.value is not None]
    if not points:
        return ""
    places, labels = _places([value for value, _, _ in points])
    low, high = min(y for _, y, _ in points), max(y for _, y, _ in points)
    frame = Frame(x_title=key, y_title=metric)
    parts = [_line(frame, share, f"{low + share * (high - low):.3g}") for share in (0.0, 0.5, 1.0)]
    parts += [
        f'<text class="tick" x="{frame.x(place):.1f}" y="{frame.y(0) + 16:.1f}">{escape(label)}</text>'
        for place, label in labels
    ]
    for place, (_, y, row) in zip(places, points, strict=True):
        height = frame.y((y - low) / (high - low) if high > low else 0.5)
        hint = escape(f"trial {row.number}: {metric} {y:.4g}, {key} {_value(row.params[key])}, {row.state}")
        parts.append(
            f'<circle class="bubble" cx="{frame.x(place):.1f}" cy="{height:.1f}" r="5"><title>{hint}</title></circle>'
        )
    parts.append(f'<text class="axis start" x="{frame.x(0):.1f}" y="10">{escape(metric)}</text>')
    return f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img">{"".join(parts)}</svg>'


def _line(frame: Frame, share: float, label: str) -> str:
    y = frame.y(share)
    tick = f'<text class="tick end" x="{frame.x(0) - 8:.1f}" y="{y + 4:.1f}">{escape(label)}</text>'
    return f'{tick}<line class="grid" x1="{frame.x(0):.1f}" x2="{frame.x(1):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _places(values: Sequence[object]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where values lie on the axis, 0..1, and what to write below it."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values):
        names = sorted({str(value) for value in values})
        at = {name: (index + 0.5) / len(names) for index, name in enumerate(names)}
        return [at[str(value)] for value in values], [(place, name) for name, place in at.items()]
    low, high = min(numbers), max(numbers)
    logarithmic = low > 0 and math.log10(high / low) > _DECADES_FOR_LOG
    scaled = [math.log10(value) if logarithmic else float(value) for value in numbers]
    start, span = min(scaled), (max(scaled) - min(scaled)) or 1.0
    return [(value - start) / span for value in scaled], [(0.0, number(low)), (1.0, number(high))]
