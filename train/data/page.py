"""The frame of a report: one HTML document that needs no other file and no network."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def document(title: str, parts: Iterable[str]) -> str:
    """Put the parts of a report between head and foot.

    Args:
        title: Shown by the browser; plain text.
        parts: HTML.

    Returns:
        A whole HTML document, its style inside.
    """
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
