"""Charts of shares (0..1 on both axes) as SVG text. Colours come from the page's style sheet."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WIDTH, _HEIGHT = 560, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 14, 44
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Axes:
    """The plotting area of one chart.

    Attributes:
        x_title: What the horizontal axis shows.
        y_title: What the vertical axis shows.
        y_top: Share at the upper end of the vertical axis.
    """

    x_title: str
    y_title: str
    y_top: float = 1.0

    def x(self, share: float) -> float:
        """Place a share of the horizontal axis, in px."""
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, share: float) -> float:
        """Place a share of the vertical axis, in px."""
        return _HEIGHT - _BOTTOM - min(share / self.y_top, 1.0) * (_HEIGHT - _TOP - _BOTTOM)


def chart(axes: Axes, marks: Iterable[str]) -> str:
    """Put marks onto axes.

    Args:
        axes: The plotting area.
        marks: From the functions below, drawn in this order.

    Returns:
        SVG.
    """
    parts = []
    for tick in _TICKS:
        x, y = axes.x(tick), axes.y(tick * axes.y_top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 8}" y="{y + 4:.1f}">{tick * axes.y_top:.0%}</text>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}">{tick:.0%}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 6}">{escape(axes.x_title)}</text>')
    turn = f"rotate(-90 12 {_HEIGHT / 2 - 20})"
    parts.append(f'<text class="axis" transform="{turn}" x="12" y="{_HEIGHT / 2 - 20}">{escape(axes.y_title)}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}{"".join(marks)}</svg>'


def line(axes: Axes, xs: Sequence[float], ys: Sequence[float], kind: str) -> str:
    """Draw a curve.

    Args:
        axes: The plotting area.
        xs: Shares.
        ys: Shares, as many.
        kind: Style class.

    Returns:
        SVG, with at most a few hundred points.
    """
    step = max(1, len(xs) // _MOST_POINTS)
    chosen = sorted({*range(0, len(xs), step), len(xs) - 1})
    points = " ".join(f"{axes.x(xs[index]):.1f},{axes.y(ys[index]):.1f}" for index in chosen)
    return f'<polyline class="{kind}" points="{points}"/>'


def bar(axes: Axes, at: tuple[float, float], height: float, kind: str, hint: str) -> str:
    """Draw a bar.

    Args:
        axes: The plotting area.
        at: Shares of its left and right edge.
        height: Share of its top.
        kind: Style class.
        hint: Shown when a pointer rests on it.

    Returns:
        SVG.
    """
    left, right, top = axes.x(at[0]) + 1, axes.x(at[1]) - 1, axes.y(height)
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{axes.y(0) - top:.1f}"'
    return f'<rect class="{kind}" {place}><title>{escape(hint)}</title></rect>'


def whisker(axes: Axes, x: float, low: float, high: float) -> str:
    """Draw an uncertainty.

    Args:
        axes: The plotting area.
        x: Share.
        low: Share of its lower end.
        high: Share of its upper end.

    Returns:
        SVG.
    """
    at = axes.x(x)
    return f'<line class="whisker" x1="{at:.1f}" x2="{at:.1f}" y1="{axes.y(low):.1f}" y2="{axes.y(high):.1f}"/>'


def point(axes: Axes, x: float, y: float, words: str) -> str:
    """Mark a place and name it.

    Args:
        axes: The plotting area.
        x: Share.
        y: Share.
        words: Beside it.

    Returns:
        SVG.
    """
    left, top = axes.x(x), axes.y(y)
    # The words stay inside, and clear of a curve that rises: above its left part, below its right one.
    side, offset, down = ("end", -10, -10) if x > 0.6 else ("start", 10, 18)  # noqa: PLR2004
    return (
        f'<circle class="mark" cx="{left:.1f}" cy="{top:.1f}" r="5"/>'
        f'<text class="value {side}" x="{left + offset:.1f}" y="{top + down:.1f}">{escape(words)}</text>'
    )
