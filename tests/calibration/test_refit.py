from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from bundle import images
from bundle.counter import Counter
from bundle.errors import ConfigError, InputError, ParityError
from bundle.verify import load_bundle
from calibration.assess import Wish
from calibration.cli import calibrate
from calibration.derive import Changes, derive
from calibration.refit import Paths, find_drift, refit_confidence
from calibration.refit_ranges import refit_ranges
from tests.calibration.conv_bundle import make_conv_bundle
from tests.calibration.scenes import scene, write_records, write_table
from tests.simulators.bundle_factory import write_manifest

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


@pytest.mark.parametrize(("engine", "role"), [("onnxruntime", "cpu"), ("onnxruntime-fp32", "reference")])
def test_refit_proves_the_promise_on_the_engine_that_answered_and_on_no_other(
    tmp_path: Path, tiny_bundle: Path, engine: str, role: str
) -> None:
    visits = write_table(tmp_path / "v", 200, 1)
    found = refit_confidence(Paths(tiny_bundle, visits, tmp_path / "out"), Wish(risk=0.1), now=_NOW, engine=engine)
    assert found.calibration.fitted_on == role
    for name in ("onnxruntime", "onnxruntime-fp32"):
        counter = Counter.open(tmp_path / "out", engine=name)
        assert counter.promise == ("proven" if name == engine else "inherited")
        counter.close()


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


def test_find_drift_other_light_is_named_and_the_same_light_is_not(tmp_path: Path, calibrated_bundle: Path) -> None:
    same = write_table(tmp_path / "same", 150, 8, noise=0.3)
    assert find_drift(calibrated_bundle, same) == ([], False)
    dark = write_records(tmp_path / "dark", 150, 8, change=lambda picture: np.asarray(picture // 2, np.uint8))
    events, drifting = find_drift(calibrated_bundle, dark)
    assert drifting
    assert len(events) == 1
    assert "contrast down" in events[0].words  # brightness says little here: it is what stands for the count


@pytest.mark.parametrize(("change", "stays"), [({"threshold": 0.5}, False), ({"promise": None}, True)])
def test_derive_reference_of_drift_stays_only_while_the_numbers_do(
    tmp_path: Path, calibrated_bundle: Path, change: dict[str, float | None], *, stays: bool
) -> None:
    source = load_bundle(calibrated_bundle)
    calibration = source.manifest.calibration.model_copy(update=change)
    derived = derive(source, tmp_path / "new", Changes(calibration), now=_NOW)
    assert (derived.manifest.drift is not None) == stays
    assert ("drift.json" in derived.manifest.files) == stays


def test_find_drift_bundle_without_a_reference_is_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="has no drift reference"):
        find_drift(tiny_bundle, tmp_path)


def test_calibrate_drift_exits_with_one_when_the_last_visits_drift(tmp_path: Path, calibrated_bundle: Path) -> None:
    dark = write_records(tmp_path / "dark", 150, 8, change=lambda picture: np.asarray(picture // 2, np.uint8))
    done = CliRunner().invoke(calibrate, ["drift", str(calibrated_bundle), str(dark), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["event"] == "drift"


def test_refit_ranges_come_closer_to_the_reference_and_keep_the_rest(tmp_path: Path) -> None:
    source = load_bundle(make_conv_bundle(tmp_path / "conv"))
    visits = write_records(tmp_path / "v", 120, 3, labelled=False)
    found = refit_ranges(Paths(source.path, visits, tmp_path / "out"), now=_NOW)
    assert found.bundle.manifest.files["model.fp32.onnx"] == source.manifest.files["model.fp32.onnx"]
    assert found.bundle.manifest.files["model.cpu.onnx"] != source.manifest.files["model.cpu.onnx"]
    assert found.parity["cpu"].mean_tv <= source.manifest.parity.budget.max_mean_tv
    counter = Counter.open(tmp_path / "out", engine="onnxruntime")  # golden frames of the new model are met
    counter.close()


def test_refit_ranges_beyond_the_budget_are_refused(tmp_path: Path) -> None:
    folder = make_conv_bundle(tmp_path / "conv")
    content = json.loads((folder / "manifest.json").read_text())
    content["parity"]["budget"]["max_mean_tv"] = 0.0
    write_manifest(folder, content)
    visits = write_records(tmp_path / "v", 120, 3, labelled=False)
    with pytest.raises(ParityError, match="too far from the reference"):
        refit_ranges(Paths(folder, visits, tmp_path / "out"), now=_NOW)
    assert not (tmp_path / "out").exists()


def test_refit_ranges_too_few_visits_are_refused(tmp_path: Path) -> None:
    visits = write_records(tmp_path / "v", 20, 3, labelled=False)
    with pytest.raises(InputError, match="at least 32 are needed"):
        refit_ranges(Paths(make_conv_bundle(tmp_path / "conv"), visits, tmp_path / "out"), now=_NOW)
