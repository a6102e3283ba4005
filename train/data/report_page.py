"""The look of the dataset report: findings in, HTML out. No files are read or written here."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from train.data.audit import describe
from train.data.charts import Frame, bubbles, histogram, number, stacked_bars
from train.data.listed import count_kinds
from train.data.page import document
from train.data.report import BLURRED_BELOW, TOP_CLASS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from train.data.listed import Listed
    from train.data.report import Findings, Thumb

_SPLIT_STYLES = ("s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7")
_SPLIT_ORDER = ("train", "val", "test")
_SHOWN_LINES = 40
_LONGEST_BARS = 20
_CELLS = 45


def render(found: Findings) -> str:
    """Make the page.

    Args:
        found: What to show.

    Returns:
        A whole HTML document that needs no other file and no network.
    """
    body = [
        _head(found),
        _verdict(found),
        f'<div class="two">{_classes(found)}{_splits(found)}</div>',
        f'<div class="two">{_sizes(found)}{_siblings(found)}</div>',
        f'<div class="two">{_blur(found)}{_brightness(found)}</div>' if len(found.blurs) else "",
        _samples(found),
        _pairs(found),
        _extremes(found) if len(found.blurs) else "",
        _lists(found),
        f"<footer>sha256 of manifest.parquet: <code>{found.digest}</code><br>{escape(_how(found))}</footer>",
    ]
    return document(f"{found.name}: dataset report", body)


def _how(found: Findings) -> str:
    return "; ".join(f"{step}: {options}" for step, options in sorted(found.note.items()))


def _head(found: Findings) -> str:
    sizes = f"{np.median(found.widths):.0f} x {np.median(found.heights):.0f}" if len(found.widths) else "not opened"
    in_pairs = int(found.group_sizes[found.group_sizes > 1].sum())
    tiles = [
        (number(len(found.counts)), "photos"),
        (number(len(found.group_sizes)), "groups (bins seen together)"),
        (f"{in_pairs / len(found.counts):.0%}", "of the photos have a sibling"),
        (number(found.articles), "different articles"),
        (f"{found.counts.mean():.1f}", f"items per bin (0 to {found.counts.max()})"),
        (sizes, "median size, px"),
        (number(len(found.rejected)), "files rejected"),
    ]
    cells = "".join(f'<div class="tile"><b>{value}</b><span>{escape(label)}</span></div>' for value, label in tiles)
    return (
        f"<h1>{escape(found.name)}</h1><p>What this dataset holds, how it is split, and what to mind.</p>"
        f'<div class="tiles">{cells}</div>'
    )


def _verdict(found: Findings) -> str:
    if found.audit is None:
        return _section("Not split yet", "Split it with <code>bintally data split FOLDER</code>.", "", "verdict bad")
    if found.audit.leaks:
        text = f"{escape(describe(found.audit))}. Numbers measured on this split are not what a new bin will give."
        return _section("This split leaks", text, "", "verdict bad")
    text = (
        f"{number(found.audit.pairs)} pairs of photos of the same bin were looked up again by id and contents: each"
        " pair lies in one split, and no file occurs in two splits."
    )
    return _section("No leak found", text, "", "verdict")


def _split_table(found: Findings) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Name, style and rows of each split, in the order that people expect."""
    rank = {name: index for index, name in enumerate(_SPLIT_ORDER)}
    names = sorted(found.split_names, key=lambda name: (rank.get(name, len(rank)), name))
    splits = [
        (name, _SPLIT_STYLES[index % len(_SPLIT_STYLES)], found.split_codes == found.split_names.index(name))
        for index, name in enumerate(names)
    ]
    if (found.split_codes < 0).any():
        splits.append(("unassigned", "none", found.split_codes < 0))
    return splits


def _classes(found: Findings) -> str:
    last = min(int(found.counts.max()), _LONGEST_BARS)
    labels = [str(count) for count in range(last + 1)]
    if last < found.counts.max():
        labels[-1] += "+"
    clipped = np.minimum(found.counts, last)
    splits = _split_table(found)
    series = [(style, np.bincount(clipped[rows], minlength=last + 1)) for _, style, rows in splits]
    dot = '<svg viewBox="0 0 10 10"><rect class="{style}" width="10" height="10" rx="2"/></svg>'
    legend = "".join(f"<span>{dot.format(style=style)}{escape(name)}</span>" for name, style, _ in splits)
    chart = stacked_bars(labels, series, Frame(x_title="items in the bin", y_title="photos"))
    return _section("Classes", "Photos by number of items, and by split.", f'<div class="legend">{legend}</div>{chart}')


def _splits(found: Findings) -> str:
    classes = np.minimum(found.counts, TOP_CLASS)
    names = [f"{label}+" if label == TOP_CLASS else str(label) for label in range(TOP_CLASS + 1)]
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for name, _, members in _split_table(found):
        amount = np.bincount(classes[members], minlength=TOP_CLASS + 1)
        total = int(members.sum())
        cells = "".join(f"<td>{number(value)}<br><code>{value / total:.1%}</code></td>" for value in amount)
        rows.append(f"<tr><td>{escape(name)}</td><td><b>{number(total)}</b></td>{cells}</tr>")
    table = f"<table><tr><th></th><th>photos</th>{head}</tr>{''.join(rows)}</table>"
    extra = ""
    if found.audit is not None:
        known = ", ".join(f"{share:.0%} of {name}" for name, share in found.audit.shared_article_share.items())
        extra = (
            "<h3>Articles known from another split</h3>"
            f"<p>{escape(known)}. No leak: a robot meets known articles too.</p>"
        )
    sizes, groups = np.unique(np.minimum(found.group_sizes, 4), return_counts=True)
    words = ", ".join(
        f"{number(amount)} of {'4 or more' if size == 4 else size}"  # noqa: PLR2004 - the last class is open
        for size, amount in zip(sizes, groups, strict=True)
    )
    extra += f"<h3>Photos per group</h3><p>{words}.</p>"
    return _section("Splits", "Photos of each class, and the class's share of its split.", table + extra)


def _sizes(found: Findings) -> str:
    if not len(found.widths):
        return _section("Sizes", "The photos were not opened at import.", "")
    ratio = found.widths / found.heights
    cell = max(4, int(max(found.widths.max(), found.heights.max())) // _CELLS)
    text = (
        f"{found.widths.min()} to {found.widths.max()} px wide, {found.heights.min()} to {found.heights.max()} px high,"
        f" width / height {ratio.min():.2f} to {ratio.max():.2f}."
    )
    frame = Frame(x_title="width, px", y_title="height, px")
    return _section("Sizes", text, bubbles(found.widths, found.heights, frame, cell=cell))


def _siblings(found: Findings) -> str:
    if not found.siblings:
        return _section("Before and after", "No two photos are known to show the same bin.", "")
    span = 6
    clipped = np.clip(found.differences, -span, span)
    labels = [f"{value:+d}" for value in range(-span, span + 1)]
    labels[0], labels[-1] = f"≤{-span}", f"≥+{span}"
    values = np.bincount(clipped + span, minlength=2 * span + 1)
    same = int((found.differences == 0).sum())
    text = (
        f"{number(found.siblings)} pairs of neighbouring ids show the same bin before and after one pick or stow;"
        f" the count stays the same in {number(same)}."
    )
    chart = stacked_bars(labels, [("plain", values)], Frame(x_title="change of the count", y_title="pairs"))
    return _section("Before and after", text, chart)


def _blur(found: Findings) -> str:
    share = float((found.blurs < BLURRED_BELOW).mean())
    text = f"Variance of the Laplacian; below {BLURRED_BELOW:.0f} blur is plain to see: {share:.0%} of the photos."
    top = float(np.percentile(found.blurs, 98))
    frame = Frame(height=220, x_title="sharpness", y_title="photos")
    return _section("Blur", text, histogram(found.blurs, frame, top=top, mark=BLURRED_BELOW))


def _brightness(found: Findings) -> str:
    low, middle, high = np.percentile(found.brightnesses, [5, 50, 95])
    text = f"Mean grey value, 0 to 255: half of the photos above {middle:.0f}, 90 % from {low:.0f} to {high:.0f}."
    frame = Frame(height=220, x_title="mean grey value", y_title="photos")
    return _section("Brightness", text, histogram(found.brightnesses, frame, top=255.0))


def _samples(found: Findings) -> str:
    rows = [_strip(label, thumbs) for label, thumbs in found.samples.items() if thumbs]
    return _section("Samples", "Drawn at random from each class; below each its id and count.", "".join(rows))


def _pairs(found: Findings) -> str:
    if not found.pairs:
        return ""
    cells = "".join(
        f'<div class="pair"><b>{first.count} → {second.count} items</b>{_figure(first)}{_figure(second)}</div>'
        for first, second in found.pairs
    )
    text = "The same bin before and after. A split that puts these two apart tests on what it has trained on."
    return _section("Sibling pairs", text, f'<div class="pairs">{cells}</div>')


def _extremes(found: Findings) -> str:
    parts = [f"<h3>{escape(title)}</h3>{_strip('', thumbs)}" for title, thumbs in found.extremes.items()]
    return _section("Extremes", "The photos at the ends of the two histograms.", "".join(parts))


def _strip(label: str, thumbs: Sequence[Thumb]) -> str:
    name = f"<b>{escape(label)}</b>" if label else ""
    return f'<div class="row">{name}<div class="strip">{"".join(_figure(thumb) for thumb in thumbs)}</div></div>'


def _figure(thumb: Thumb) -> str:
    picture = f'<img alt="{escape(thumb.id)}" src="{thumb.data_uri}">' if thumb.data_uri else '<div class="gone"></div>'
    remark = f" · {escape(thumb.remark)}" if thumb.remark else ""
    missing = "" if thumb.data_uri else " · photo gone"
    caption = f"<b>{thumb.count}</b> items · {escape(thumb.id)}{remark}{missing}"
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _lists(found: Findings) -> str:
    parts = []
    if found.duplicate_pairs:
        words = "; ".join(f"{left} = {right}" for left, right in found.duplicates)
        more = (
            f" and {found.duplicate_pairs - len(found.duplicates)} more"
            if found.duplicate_pairs > len(found.duplicates)
            else ""
        )
        text = f"{number(found.duplicate_pairs)} files are identical to another one: {escape(words)}{more}."
    else:
        text = "No two files are identical."
    parts.append(_section("Duplicates", text, ""))
    parts.append(_section("Rejected", _kinds(found.rejected) or "Every file was taken.", _table(found.rejected)))
    parts.append(_section("Taken with a remark", _kinds(found.notices) or "Nothing to remark.", _table(found.notices)))
    return "".join(parts)


def _kinds(entries: Iterable[Listed]) -> str:
    return ", ".join(f"{number(amount)} {escape(kind)}" for kind, amount in count_kinds(entries).items())


def _table(entries: Sequence[Listed]) -> str:
    if not entries:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(entry.name)}</code></td><td>{escape(entry.kind)}</td><td>{escape(entry.reason)}</td></tr>"
        for entry in entries[:_SHOWN_LINES]
    )
    more = (
        f"<p>... and {number(len(entries) - _SHOWN_LINES)} more in the file.</p>" if len(entries) > _SHOWN_LINES else ""
    )
    return f'<table class="left"><tr><th>file</th><th>kind</th><th>reason</th></tr>{rows}</table>{more}'


def _section(title: str, text: str, content: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{escape(title)}</h2><p>{text}</p>{content}</section>'
