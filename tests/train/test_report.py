from __future__ import annotations

import shutil
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.errors import InputError
from tests.train.tiny import config, make_dataset
from train.data.charts import Frame
from train.job import train
from train.metrics import judge
from train.place import Place
from train.progress import Silent
from train.reliability import area_under_risk_coverage, reliability_bins, risk_coverage
from train.report import write_report
from train.report_charts import confusion_table, curves

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("1", "2")


class _Page(HTMLParser):
    """Counts elements and notices what would need a network."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("data:"):
                self.outside.append(value or "")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    dataset = make_dataset(tmp_path, 90)
    place = Place(dataset=dataset, out=tmp_path / "run", device="cpu", threads=1)
    train(config(epochs=2), place, progress=Silent())
    return tmp_path / "run"


def _parsed(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text())
    return page


def test_write_report_is_one_file_with_curves_tables_and_photos(finished: Path, tmp_path: Path) -> None:
    found = write_report(finished, tmp_path / "report.html")
    page = _parsed(tmp_path / "report.html")
    shown = len(found.worst) + sum(len(answers) for answers in found.samples.values())
    assert page.tags["img"] == shown > 10
    assert page.tags["svg"] >= 4
    assert page.tags["polyline"] >= 5
    assert page.outside == []
    assert f"{found.figures['accuracy']:.1%}" in (tmp_path / "report.html").read_text()


def test_write_report_survives_its_dataset(finished: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "dataset")
    write_report(finished, tmp_path / "report.html")
    page = _parsed(tmp_path / "report.html")
    assert "img" not in page.tags
    assert page.tags["table"] >= 2


def test_write_report_worst_mistakes_are_mistakes_furthest_first(finished: Path, tmp_path: Path) -> None:
    found = write_report(finished, tmp_path / "report.html")
    distances = [abs(int(answer.truth) - int(answer.answer)) for answer in found.worst]
    assert distances == sorted(distances, reverse=True)
    assert min(distances) > 0


def test_write_report_unfinished_run_is_refused(finished: Path, tmp_path: Path) -> None:
    (finished / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"metrics\.json"):
        write_report(finished, tmp_path / "report.html")


def test_write_report_damaged_predictions_are_refused_by_name(finished: Path, tmp_path: Path) -> None:
    path = finished / "predictions.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"predictions\.npz"):
        write_report(finished, tmp_path / "report.html")


def test_reliability_bins_by_hand() -> None:
    posterior = np.array([[0.95, 0.05], [0.93, 0.07], [0.6, 0.4]])
    judged = judge(np.array([0, 1, 1]), posterior, CLASSES)
    low, high = reliability_bins(judged)
    assert [(found.photos, found.accuracy) for found in (low, high)] == [(1, 0.0), (2, 0.5)]
    assert [low.confidence, high.confidence] == pytest.approx([0.6, 0.94])


def test_risk_coverage_by_hand() -> None:
    posterior = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    judged = judge(np.array([0, 1, 0, 1]), posterior, CLASSES)
    coverages, risks = zip(*risk_coverage(judged), strict=True)
    assert coverages == (0.25, 0.5, 0.75, 1.0)
    assert risks == pytest.approx((0, 0.5, 1 / 3, 0.5))
    assert area_under_risk_coverage(judged) == pytest.approx((0 + 0.5 + 1 / 3 + 0.5) / 4)


def test_risk_coverage_equal_confidence_does_not_depend_on_order() -> None:
    posterior = np.array([[0.8, 0.2]] * 4)
    for truth in ([0, 0, 1, 1], [1, 1, 0, 0]):
        assert risk_coverage(judge(np.array(truth), posterior, CLASSES)) == [(1.0, 0.5)]


def test_charts_escape_names() -> None:
    assert "<b>" not in curves([("<b>", [(0, 1), (1, 2)])], Frame())
    assert "<script>" not in confusion_table(["<script>"], [[1]])


def test_curves_without_points_draw_nothing() -> None:
    assert curves([("loss", [])], Frame()) == ""
