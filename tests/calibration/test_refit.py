from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from bundle import images
from bundle.counter import Counter
from bundle.errors import ConfigError, InputError
from bundle.verify import load_bundle
from calibration.assess import Wish
from calibration.cli import calibrate
from calibration.refit import Paths, refit_confidence
from tests.calibration.scenes import scene, write_table

if TYPE_CHECKING:
    from pathlib import Path

_NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)


def _refit(tmp_path: Path, tiny_bundle: Path, visits: Path, wish: Wish) -> Path:
    paths = Paths(tiny_bundle, visits, tmp_path / "out", tmp_path / "report.html")
    refit_confidence(paths, wish, now=_NOW)
    return paths.out


def test_refit_writes_a_bundle_that_keeps_its_promise_on_new_visits(tmp_path: Path, tiny_bundle: Path) -> None:
    out = _refit(tmp_path, tiny_bundle, write_table(tmp_path / "v", 300, 1), Wish(risk=0.1))
    found = load_bundle(out)
    calibration = found.manifest.calibration
    assert calibration.promise is not None
    assert (calibration.promise.risk, calibration.promise.frames) == (0.1, 300)
    assert found.manifest.provenance.calibrated_from == load_bundle(tiny_bundle).digest
    assert found.manifest.version == "1.0.0+cal.20260304050607"
    assert found.manifest.drift == "drift.json"
    assert "at most 10% of the confident counts are wrong" in found.read("card.md").decode()
    new = write_table(tmp_path / "new", 300, 2)
    counter = Counter.open(out)
    counts = [counter.count([images.read(photo)]) for photo in sorted(new.glob("*.png"))]
    counter.close()
    truth = [int(line.split(",")[1]) for line in (new / "visits.csv").read_text().splitlines()[1:]]
    wrong = [one.count != real for one, real in zip(counts, truth, strict=True) if one.confident]
    assert len(wrong) > 100
    assert np.mean(wrong) <= 0.1
    inside = [
        one.interval.low <= real <= one.interval.high
        for one, real in zip(counts, truth, strict=True)
        if one.interval is not None
    ]
    assert np.mean(inside) >= 0.88  # more than asked for: this counter is right more often than that


def test_refit_report_is_one_file_with_both_pictures(tmp_path: Path, tiny_bundle: Path) -> None:
    _refit(tmp_path, tiny_bundle, write_table(tmp_path / "v", 150, 1), Wish(risk=0.2))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "Promise: at most 20% of the confident counts are wrong" in page
    assert not any(outside in page for outside in ("http://", "https://", "src=", "@import"))


def test_refit_too_few_visits_for_the_promise_says_how_many_it_takes(tmp_path: Path, tiny_bundle: Path) -> None:
    visits = write_table(tmp_path / "v", 40, 1, noise=0.2)
    with pytest.raises(InputError, match=r"got 40 labelled visits, expected needs >= \d+ labelled visits"):
        _refit(tmp_path, tiny_bundle, visits, Wish(risk=0.02))
    assert not (tmp_path / "out").exists()
    assert "No promise" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_refit_hardly_any_labels_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="got 6 of 6 bins, with counts 0 to 6\\+, expected needs >= 20"):
        _refit(tmp_path, tiny_bundle, write_table(tmp_path / "v", 6, 1), Wish())


def test_refit_never_overwrites(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        _refit(tmp_path, tiny_bundle, tmp_path / "nowhere", Wish())


def test_refit_photo_that_cannot_be_read_is_set_aside(tmp_path: Path, tiny_bundle: Path) -> None:
    visits = write_table(tmp_path / "v", 120, 1)
    (visits / "00007.png").write_bytes(b"no photo")
    paths = Paths(tiny_bundle, visits, tmp_path / "out")
    refitted = refit_confidence(paths, Wish(risk=0.2), now=_NOW)
    assert (refitted.labelled, refitted.refused) == (119, 1)


def test_calibrate_confidence_prints_one_object_for_programs(tmp_path: Path, tiny_bundle: Path) -> None:
    visits = write_table(tmp_path / "v", 150, 3)
    arguments = ["confidence", str(tiny_bundle), str(visits), "--out", str(tmp_path / "o"), "--risk", "0.2", "--json"]
    done = CliRunner().invoke(calibrate, arguments, catch_exceptions=False)
    content = json.loads(done.stdout)
    assert content["visits"] == 150
    assert content["calibration"]["promise"]["risk"] == 0.2
    assert content["unseen"]["wrong_among_confident"] <= 0.2
    assert load_bundle(tmp_path / "o").digest == content["digest"]


def test_scene_is_counted_as_what_it_was_made_for(tiny_bundle: Path) -> None:
    counter = Counter.open(tiny_bundle)
    rng = np.random.default_rng(0)
    counted = [counter.count([scene(rng, count)]).count for count in range(7)]
    counter.close()
    assert counted == [0, 1, 2, 3, 4, 5, 6]
