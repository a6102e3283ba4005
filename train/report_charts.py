"""Charts of a run as SVG text: curves, reliability, confusion. Colours come from the page's style sheet."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from train.data.charts import Frame, nice_ticks, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train.reliability import Bin

_SWATCHES = ("var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)")
_DARK_CELL = 0.55


def curves(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], frame: Frame) -> str:
    """Lines over a common horizontal axis.

    Args:
        series: (name, points (x, y)) per line; empty lines are left out.
        frame: Size and titles.

    Returns:
        A legend and an SVG element, or "" when there is nothing to draw.
    """
    drawn = [(name, points) for name, points in series if points]
    if not drawn:
        return ""
    right = max(x for _, points in drawn for x, _ in points) or 1.0
    ticks = nice_ticks(max(y for _, points in drawn for _, y in points) or 1.0)
    parts = [_horizontal(frame, ticks), _titles(frame)]
    parts += [_text(frame.x(share), frame.y(0) + 16, number(round(right * share)), "tick") for share in (0, 0.5, 1)]
    for color, (name, points) in zip(_SWATCHES, drawn, strict=False):
        path = " ".join(f"{frame.x(x / right):.1f},{frame.y(y / ticks[-1]):.1f}" for x, y in points)
        parts.append(
            f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{path}">{_hint(name)}</polyline>'
        )
    return _legend([name for name, _ in drawn]) + _svg(frame, parts)


def reliability(bins: Sequence[Bin], frame: Frame) -> str:
    """Share of hits over stated confidence, with the diagonal of an honest counter.

    Args:
        bins: From `train.reliability`.
        frame: Size and titles.

    Returns:
        An SVG element; the area of a point grows with its photos.
    """
    parts = [_horizontal(frame, [0.0, 0.25, 0.5, 0.75, 1.0]), _titles(frame)]
    parts += [_text(frame.x(share), frame.y(0) + 16, f"{share:.0%}", "tick") for share in (0, 0.25, 0.5, 0.75, 1)]
    line = f'x1="{frame.x(0):.1f}" y1="{frame.y(0):.1f}" x2="{frame.x(1):.1f}" y2="{frame.y(1):.1f}"'
    parts.append(f'<line {line} stroke="var(--soft)" stroke-dasharray="4 4"/>')
    most = max((cell.photos for cell in bins), default=1)
    for cell in bins:
        place = f'cx="{frame.x(cell.confidence):.1f}" cy="{frame.y(cell.accuracy):.1f}"'
        hint = _hint(f"{cell.photos} photos: says {cell.confidence:.0%}, is right on {cell.accuracy:.0%}")
        parts.append(f'<circle class="bubble" {place} r="{3 + 11 * (cell.photos / most) ** 0.5:.1f}">{hint}</circle>')
    return _svg(frame, parts)


def confusion_table(classes: Sequence[str], table: Sequence[Sequence[int]]) -> str:
    """The confusion matrix as an HTML table, each row shaded by its share.

    Args:
        classes: Names of the classes.
        table: Rows are the truth, columns the answer.

    Returns:
        A table element.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    rows = [f"<tr><th>true \\ answer</th>{head}<th>photos</th></tr>"]
    for name, row in zip(classes, table, strict=True):
        total = sum(row)
        cells = "".join(_cell(value, total) for value in row)
        rows.append(f"<tr><td><b>{escape(name)}</b></td>{cells}<td>{number(total)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _cell(value: int, total: int) -> str:
    share = value / total if total else 0.0
    ink = ";color:#fff" if share > _DARK_CELL else ""
    shade = f"background:color-mix(in srgb,var(--c0) {100 * share:.0f}%,transparent){ink}"
    return f'<td style="{shade}" title="{share:.1%} of the row">{value}</td>'


def _horizontal(frame: Frame, ticks: Sequence[float]) -> str:
    parts = []
    for tick in ticks:
        y = frame.y(tick / ticks[-1])
        parts.append(f'<line class="grid" x1="{frame.x(0):.1f}" x2="{frame.x(1):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(frame.x(0) - 8, y + 4, number(tick), "tick end"))
    return "".join(parts)


def _titles(frame: Frame) -> str:
    bottom = _text(frame.x(0.5), frame.height - 4, frame.x_title, "axis")
    return bottom + _text(frame.x(0), 10, frame.y_title, "axis start")


def _legend(names: Sequence[str]) -> str:
    items = [
        f'<span><svg viewBox="0 0 11 11"><rect width="11" height="11" fill="{color}"/></svg>{escape(name)}</span>'
        for color, name in zip(_SWATCHES, names, strict=False)
    ]
    return f'<div class="legend">{"".join(items)}</div>'


def _hint(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _text(x: float, y: float, content: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def _svg(frame: Frame, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img">{"".join(parts)}</svg>'
