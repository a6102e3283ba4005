"""Charts as SVG text: bars, histograms, bubbles. Colours come from the page's style sheet, so they follow its theme."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 18, 38
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area of one chart.

    Attributes:
        width: Width of the whole chart, in px of its own coordinates.
        height: Height of the same.
        x_title: What the horizontal axis shows.
        y_title: What the vertical axis shows.
    """

    width: int = 640
    height: int = 280
    x_title: str = ""
    y_title: str = ""

    @property
    def inner_w(self) -> float:
        """Width of the plotting area."""
        return self.width - _LEFT - _RIGHT

    @property
    def inner_h(self) -> float:
        """Height of the plotting area."""
        return self.height - _TOP - _BOTTOM

    def x(self, share: float) -> float:
        """Place a share of the horizontal axis, 0..1, in px."""
        return _LEFT + share * self.inner_w

    def y(self, share: float) -> float:
        """Place a share of the vertical axis, 0..1 from the bottom, in px."""
        return _TOP + (1.0 - share) * self.inner_h


def nice_ticks(top: float) -> list[float]:
    """Choose round tick values from 0 up to at least `top`.

    Args:
        top: Largest value shown, above 0.

    Returns:
        Ascending ticks; the last one is the end of the axis.
    """
    raw = max(top, 1e-9) / _TICKS
    power = 10.0 ** np.floor(np.log10(raw))
    step = min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(np.log(step / raw)))
    return [float(step * index) for index in range(int(np.ceil(top / step - 1e-9)) + 1)]


def number(value: float) -> str:
    """Write a number for a label.

    Args:
        value: Any.

    Returns:
        With thousands separated, and no decimals that say nothing.
    """
    return f"{value:,.0f}" if abs(value - round(value)) < 1e-9 or abs(value) >= 1000 else f"{value:g}"  # noqa: PLR2004


def stacked_bars(labels: Sequence[str], series: Sequence[tuple[str, NDArray[np.int64]]], frame: Frame) -> str:
    """Draw one bar per label, made of one piece per series.

    Args:
        labels: Names of the bars.
        series: Style class and int64 (bars,) values of each piece, from the bottom up.
        frame: Size and titles.

    Returns:
        SVG.
    """
    totals = np.sum([values for _, values in series], axis=0)
    ticks = nice_ticks(float(totals.max(initial=1)))
    parts = [_axes(frame, ticks, labels)]
    slot = frame.inner_w / len(labels)
    for index, total in enumerate(totals):
        left, base = _LEFT + slot * (index + 0.14), 0.0
        for name, values in series:
            height = float(values[index]) / ticks[-1] * frame.inner_h
            if height:
                top = frame.y(base / frame.inner_h) - height
                hint = f"<title>{escape(labels[index])}: {name} {number(float(values[index]))}</title>"
                parts.append(_box(left, top, slot * 0.72, height, name, hint))
            base += height
        middle = left + slot * 0.36
        parts.append(_text(middle, frame.y(base / frame.inner_h) - 5, number(float(total)), "value"))
    return _svg(frame, parts)


def histogram(
    values: NDArray[np.float32], frame: Frame, *, bins: int = 40, top: float | None = None, mark: float | None = None
) -> str:
    """Draw how often values occur.

    Args:
        values: float32, (n,), finite.
        frame: Size and titles.
        bins: Number of bars.
        top: Values above are counted in the last bar; None takes the largest.
        mark: Where to draw a vertical line; bars below it are drawn as `low`.

    Returns:
        SVG.
    """
    end = float(top if top is not None else values.max(initial=1.0)) or 1.0
    heights, edges = np.histogram(np.minimum(values, end), bins=bins, range=(0.0, end))
    ticks, x_ticks = nice_ticks(float(heights.max(initial=1))), nice_ticks(end)
    shown = [tick for tick in x_ticks if tick <= end * 1.001]
    parts = [_axes(frame, ticks, [], [(frame.x(tick / end), number(tick)) for tick in shown])]
    slot = frame.inner_w / bins
    for index, height in enumerate(heights):
        tall = float(height) / ticks[-1] * frame.inner_h
        kind = "low" if mark is not None and edges[index] < mark else "plain"
        hint = f"<title>{edges[index]:.0f} to {edges[index + 1]:.0f}: {number(float(height))}</title>"
        parts.append(_box(_LEFT + slot * index + 0.5, frame.y(0) - tall, slot - 1, tall, kind, hint))
    return _svg(frame, parts)


def bubbles(xs: NDArray[np.int32], ys: NDArray[np.int32], frame: Frame, *, cell: int) -> str:
    """Draw a scatter of many points: one bubble per cell, its area growing with the number of points.

    Args:
        xs: int32, (n,), 0 or more.
        ys: int32, (n,), 0 or more.
        frame: Size and titles.
        cell: Width and height of a cell, in units of the data.

    Returns:
        SVG.
    """
    cells = (xs // cell).astype(np.int64) << 32 | (ys // cell).astype(np.int64)
    keys, sizes = np.unique(cells, return_counts=True)
    x_ticks, y_ticks = nice_ticks(float(xs.max(initial=1)) + cell), nice_ticks(float(ys.max(initial=1)) + cell)
    parts = [_axes(frame, y_ticks, [], [(frame.x(tick / x_ticks[-1]), number(tick)) for tick in x_ticks])]
    radii = 2.0 + 12.0 * np.sqrt(sizes / sizes.max())
    for index in np.argsort(-sizes):
        x, y = (int(keys[index]) >> 32) * cell, (int(keys[index]) & 0xFFFFFFFF) * cell
        middle = frame.x((x + cell / 2) / x_ticks[-1]), frame.y((y + cell / 2) / y_ticks[-1])
        hint = f"{x} to {x + cell - 1} x {y} to {y + cell - 1} px: {number(float(sizes[index]))} photos"
        parts.append(
            f'<circle class="bubble" cx="{middle[0]:.1f}" cy="{middle[1]:.1f}" r="{radii[index]:.1f}">'
            f"<title>{hint}</title></circle>"
        )
    return _svg(frame, parts)


def _axes(frame: Frame, ticks: list[float], labels: Sequence[str], x_ticks: Sequence[tuple[float, str]] = ()) -> str:
    parts = []
    for tick in ticks:
        height = frame.y(tick / ticks[-1])
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{frame.width - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>'
        )
        parts.append(_text(_LEFT - 8, height + 4, number(tick), "tick end"))
    slot = frame.inner_w / max(len(labels), 1)
    places = [(_LEFT + slot * (index + 0.5), label) for index, label in enumerate(labels)]
    parts += [_text(place, frame.height - _BOTTOM + 16, label, "tick") for place, label in [*places, *x_ticks]]
    parts.append(_text(_LEFT + frame.inner_w / 2, frame.height - 4, frame.x_title, "axis"))
    if frame.y_title:
        parts.append(_text(_LEFT, 10, frame.y_title, "axis start"))
    return "".join(parts)


def _box(left: float, top: float, width: float, height: float, kind: str, inside: str) -> str:
    place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{escape(kind)}" {place}>{inside}</rect>'


def _text(x: float, y: float, content: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'


def _svg(frame: Frame, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img">{"".join(parts)}</svg>'
