from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.train.data.sources import AbidSource, jpeg, pairs_source
from train.data.charts import Frame, bubbles, histogram, nice_ticks, stacked_bars
from train.data.importing import import_abid
from train.data.report import write_report
from train.data.split import plan, split

if TYPE_CHECKING:
    from pathlib import Path


class _Page(HTMLParser):
    """Checks nesting, and collects text and addresses."""

    VOID = frozenset({"meta", "img", "br", "line", "rect", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag, attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "


def test_report_shows_numbers_and_needs_no_other_file(tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "source", bins=40)
    source.add("00500", 0)
    source.add("00600", 9, data=source.photos["00001"])
    source.write("bin-images/broken.jpg", b"x")
    source.write("metadata/broken.json", '{"BIN_FCSKU_DATA": {}, "EXPECTED_QUANTITY": 1}')
    dataset = split(import_abid(source.folder, tmp_path / "set", workers=1).dataset)
    found = write_report(dataset, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    page = _Page(html)
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "url(" not in html
    assert "<script" not in html
    assert found.siblings == 40
    assert found.duplicates == (("00001", "00600"),)
    for words in ("No leak found", "00001 = 00600", "broken.jpg", "photo_unreadable", dataset.digest, "6+"):
        assert words in page.text, words
    assert len(page.addresses) > 60


def test_report_two_runs_give_equal_bytes(tmp_path: Path) -> None:
    dataset = split(import_abid(pairs_source(tmp_path / "source").folder, tmp_path / "set", workers=1).dataset)
    for name in ("one", "two"):
        write_report(dataset, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_report_leaking_split_says_so_on_top(tmp_path: Path) -> None:
    imported = import_abid(pairs_source(tmp_path / "source").folder, tmp_path / "set", workers=1)
    write_report(split(imported.dataset, plan("random")), tmp_path / "report.html")
    assert "This split leaks" in _Page((tmp_path / "report.html").read_text()).text


def test_report_photos_gone_and_strange_ids_still_give_a_page(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("a<b>&'\"", 1)
    source.add("00002", 2, data=jpeg(3, width=20, height=90))
    dataset = import_abid(source.folder, tmp_path / "set", workers=1).dataset
    dataset.path_of(0).unlink()
    write_report(dataset, tmp_path / "report.html")
    page = _Page((tmp_path / "report.html").read_text())
    assert "photo gone" in page.text
    assert "a<b>&" in page.text
    assert "Not split yet" in page.text


@pytest.mark.parametrize(
    ("top", "last", "most"), [(1, 1, 6), (3, 3, 7), (9.5, 10, 6), (1488, 1500, 7), (255, 300, 7), (0.02, 0.02, 6)]
)
def test_nice_ticks_are_round_and_reach_the_top(top: float, last: float, most: int) -> None:
    ticks = nice_ticks(top)
    assert ticks[0] == 0
    assert ticks[-1] == pytest.approx(last)
    assert 3 <= len(ticks) <= most


def _heights(svg: str, kind: str) -> list[float]:
    return [float(height) for height in re.findall(rf'<rect class="{kind}"[^>]*height="([\d.]+)"', svg)]


def test_stacked_bars_heights_are_proportional() -> None:
    svg = stacked_bars(["0", "1"], [("s0", np.array([10, 20])), ("s1", np.array([0, 10]))], Frame())
    first, second = _heights(svg, "s0")
    assert second == pytest.approx(2 * first, abs=0.2)
    assert _heights(svg, "s1") == [pytest.approx(first, abs=0.2)]


def test_histogram_counts_what_lies_above_in_the_last_bar_and_marks_the_low() -> None:
    svg = histogram(np.array([1, 1, 50, 500], np.float32), Frame(), bins=4, top=100, mark=25)
    assert len(_heights(svg, "low")) == 1
    plain = _heights(svg, "plain")
    assert plain[-1] > 0
    assert _heights(svg, "low")[0] == pytest.approx(2 * plain[-1], abs=0.2)


def test_bubbles_draw_one_circle_per_cell_however_many_points() -> None:
    xs = np.repeat(np.array([100, 300], np.int32), 50_000)
    svg = bubbles(xs, xs // 2, Frame(), cell=10)
    assert svg.count("<circle") == 2
    assert "50,000 photos" in svg
