"""The calibration report: figures in, one HTML page out that needs no other file and no network. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from calibration import assess
from calibration.bounds import clopper_pearson_upper
from calibration.charts import Axes, bar, chart, line, point, whisker

if TYPE_CHECKING:
    from bundle.manifest import Calibration
    from calibration.assess import Reliability, Unseen, Wish

_OFFSETS = (1, 2, 3)
_TWO_SIDED = 0.975

STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1c2430;--soft:#667085;--line:#e4e7ec;--good:#0e8a5f;--bad:#c62f3b;--c0:#3b6fe0;
--c1:#f0a02f;--c0soft:#3b6fe033}
@media (prefers-color-scheme:dark){:root{--bg:#12161d;--card:#1a2029;--ink:#e7ebf1;--soft:#98a2b3;--line:#2b3340;
--good:#3ecf98;--bad:#ff7b84;--c0:#6f9bff;--c1:#ffbe5c;--c0soft:#6f9bff33}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:28px;margin:0 0 4px;letter-spacing:-.01em}h2{font-size:17px;margin:0 0 2px}
p{margin:0 0 12px;color:var(--soft)}code{font:12px ui-monospace,"DejaVu Sans Mono",monospace;color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin-top:18px}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:20px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 16px}
.tile b{display:block;font-size:24px;letter-spacing:-.02em}.tile span{color:var(--soft);font-size:13px}
.verdict{border-left:5px solid var(--good)}.verdict.bad{border-left-color:var(--bad)}
.verdict h2{color:var(--good)}.verdict.bad h2{color:var(--bad)}.verdict p{margin:4px 0 0;color:var(--ink)}
svg{width:100%;height:auto;display:block}text{font-size:12px;fill:var(--soft);text-anchor:middle}
text.end{text-anchor:end}text.start{text-anchor:start}text.value{fill:var(--ink);font-weight:600}text.axis{font-size:13px}
.grid{stroke:var(--line)}.fill{fill:var(--c0soft);stroke:var(--c0)}
.diagonal{stroke:var(--soft);stroke-dasharray:5 5;fill:none}
.curve{stroke:var(--c0);stroke-width:2.5;fill:none}.limit{stroke:var(--bad);stroke-dasharray:5 5;fill:none}
.whisker{stroke:var(--ink);stroke-width:1.5}.mark{fill:var(--c1);stroke:var(--ink)}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:6px 10px;text-align:right;border-top:1px solid var(--line)}
th{font-weight:600;color:var(--soft);border-top:0}th:first-child,td:first-child{text-align:left}
footer{margin-top:24px;color:var(--soft);font-size:12px;word-break:break-all}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """What the report is about.

    Attributes:
        title: Name of the bundle.
        source: Where the visits came from, in words.
        raw_error: Calibration error of the outputs before calibration.
        needed: Visits that a promise would take; None when there is one, or when more visits would not help.
    """

    title: str
    source: str
    raw_error: float
    needed: int | None = None


def render(subject: Subject, calibration: Calibration, wish: Wish, unseen: Unseen) -> str:
    """Make the page.

    Args:
        subject: What it is about.
        calibration: Fitted on all visits: what the bundle gets.
        wish: What was asked for.
        unseen: The visits judged by numbers fitted without them.

    Returns:
        A whole HTML document.
    """
    how = (
        f"{subject.source}. Every figure but the fitted numbers is measured on visits that the numbers were not fitted"
        f" to ({assess.FOLDS} folds, visits of one bin in one fold)."
    )
    body = [
        _head(subject, unseen),
        _verdict(subject, calibration, wish, unseen),
        f'<div class="two">{_reliability(unseen)}{_risk_coverage(calibration, wish, unseen)}</div>',
        f'<div class="two">{_intervals(calibration, wish, unseen)}{_records(wish, unseen)}</div>',
        f"<footer>{escape(how)}</footer>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(subject.title)}: calibration</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(subject: Subject, unseen: Unseen) -> str:
    error = assess.calibration_error(unseen.posterior, unseen.truth)
    floor = assess.calibration_error_floor(unseen.posterior)
    tiles = [
        (f"{len(unseen.truth):,}", "labelled visits"),
        (f"{unseen.right.mean():.1%}", "counts exactly right"),
        (f"{subject.raw_error:.3f}", "calibration error before"),
        (f"{error:.3f}", f"after (noise alone: {floor:.3f})"),
        (f"{unseen.confident.mean():.0%}", "of the visits confident"),
    ]
    cells = "".join(f'<div class="tile"><b>{value}</b><span>{escape(label)}</span></div>' for value, label in tiles)
    return f'<h1>{escape(subject.title)}</h1><p>What its confidence is worth.</p><div class="tiles">{cells}</div>'


def _verdict(subject: Subject, calibration: Calibration, wish: Wish, unseen: Unseen) -> str:
    promise = calibration.promise
    if promise is not None:
        chosen = int(unseen.confident.sum())
        wrong = int((unseen.confident & ~unseen.right).sum())
        seen = f"{wrong} of {chosen} confident counts were wrong on unseen visits." if chosen else ""
        title = f"Promise: at most {promise.risk:.0%} of the confident counts are wrong"
        text = (
            f"It holds with {promise.confidence:.0%} confidence, from probability {calibration.threshold:.2f} upwards"
            f" (temperature {calibration.temperature:.2f}). {promise.coverage:.0%} of the visits reach it. {seen}"
        )
        return f'<section class="verdict"><h2>{escape(title)}</h2><p>{escape(text)}</p></section>'
    title = f"No promise: these visits cannot show that at most {wish.risk:.0%} of the confident counts are wrong"
    text = (
        f"That needs about {subject.needed:,} labelled visits like these."
        if subject.needed
        else "At no confidence are so few counts wrong: more visits alone will hardly help, a better model would."
    )
    return f'<section class="verdict bad"><h2>{escape(title)}</h2><p>{escape(text)}</p></section>'


def _reliability(unseen: Unseen) -> str:
    axes = Axes("confidence", "share of right counts")
    rows = assess.reliability(unseen.posterior, unseen.truth)
    marks = [mark for row in rows for mark in _bin(axes, row)]
    marks.append(line(axes, [0, 1], [0, 1], "diagonal"))
    text = "On the dashed line a confidence of 70 % is right 70 times in 100. Whiskers: 95 % interval."
    return _section("Reliability", text, chart(axes, marks))


def _bin(axes: Axes, row: Reliability) -> list[str]:
    slot = min(int(row.confidence * assess.BINS), assess.BINS - 1) / assess.BINS
    hits = round(row.right * row.visits)
    hint = f"{row.visits} visits: mean confidence {row.confidence:.1%}, right {row.right:.1%}"
    high = clopper_pearson_upper(hits, row.visits, _TWO_SIDED)
    low = 1 - clopper_pearson_upper(row.visits - hits, row.visits, _TWO_SIDED)
    middle = slot + 0.5 / assess.BINS
    return [
        bar(axes, (slot, slot + 1 / assess.BINS), row.right, "fill", hint),
        whisker(axes, middle, low, high),
    ]


def _risk_coverage(calibration: Calibration, wish: Wish, unseen: Unseen) -> str:
    curve, area = assess.risk_coverage(unseen.posterior, unseen.truth)
    top = max(0.2, float(np.ceil(curve[len(curve) // 50 :].max() * 5) / 5))
    axes = Axes("share of visits that are called confident", "share of those that are wrong", top)
    shares = (np.arange(1, len(curve) + 1) / len(curve)).tolist()
    marks = [
        line(axes, shares, curve.tolist(), "curve"),
        line(axes, [0, 1], [wish.risk, wish.risk], "limit"),
    ]
    if calibration.promise is not None:
        coverage = calibration.promise.coverage
        at = curve[max(round(coverage * len(curve)) - 1, 0)]
        marks.append(point(axes, coverage, float(at), f"{coverage:.0%} confident"))
    text = f"The most confident visits first; area under the curve {area:.3f}. Dashed: the risk asked for."
    return _section("Risk and coverage", text, chart(axes, marks))


def _intervals(calibration: Calibration, wish: Wish, unseen: Unseen) -> str:
    if calibration.interval is None or not unseen.width.any():
        return _section("Intervals of counts", f"Too few visits for {wish.coverage:.0%} coverage.", "")
    classes = unseen.posterior.shape[1]
    rows = [
        f"<tr><td>{size} {'count' if size == 1 else 'counts'}</td><td>{(unseen.width == size).mean():.1%}</td>"
        f"<td>{unseen.inside[unseen.width == size].mean():.1%}</td></tr>"
        for size in range(1, classes + 1)
        if (unseen.width == size).any()
    ]
    head = "<tr><th>interval of</th><th>visits</th><th>true count inside</th></tr>"
    total = f"<tr><td><b>all</b></td><td>100.0%</td><td><b>{unseen.inside.mean():.1%}</b></td></tr>"
    text = (
        f'Beside the count stands an interval such as "3 to 4". Asked: {wish.coverage:.0%}. Mean width'
        f" {unseen.width.mean():.2f} counts."
    )
    return _section("Intervals of counts", text, f"<table>{head}{''.join(rows)}{total}</table>")


def _records(wish: Wish, unseen: Unseen) -> str:
    alarms = assess.mismatches(unseen, 0)
    if alarms is None:
        return _section("Against the record", f"Too few visits for {wish.false_alarm:.0%} false alarms.", "")
    rows = [f"<tr><td>the record is right (false alarms)</td><td>{alarms:.1%}</td><td>{alarms:.1%}</td></tr>"]
    for offset in _OFFSETS:
        more, fewer = assess.mismatches(unseen, offset), assess.mismatches(unseen, -offset)
        if more is not None and fewer is not None:
            words = f"{offset} {'item' if offset == 1 else 'items'}"
            rows.append(f"<tr><td>{words} off</td><td>{more:.1%}</td><td>{fewer:.1%}</td></tr>")
    head = "<tr><th></th><th>too few in the bin: short</th><th>too many: over</th></tr>"
    text = f"How often a visit contradicts its record. Asked: at most {wish.false_alarm:.0%} when the record is right."
    return _section("Against the record", text, f"<table>{head}{''.join(rows)}</table>")


def _section(title: str, text: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>{content}</section>"
