from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from bundle.counter import Counter
from bundle.errors import BundleError, ConfigError, InputError, ParityError
from bundle.images import read
from bundle.manifest import ParityBudget
from bundle.verify import load_bundle
from calibration.int8.qdq import Filters
from calibration.int8.quantize import prepare
from export.cli import export
from export.job import Exported, export_run
from export.linter import Finding, lint
from export.options import BUDGET, Options
from export.to_onnx import infer_torch
from train.data.manifest import Dataset
from train.ensemble import make_ensemble
from train.job import train
from train.place import Place
from train.progress import Silent
from train.run import load_run, read_config

if TYPE_CHECKING:
    from pathlib import Path

    from calibration.int8.placement import Dialect
    from calibration.int8.quantize import Prepared

_WIDE = ParityBudget(min_agreement=0, max_mean_tv=1, max_accuracy_drop=1)
_OPTIONS = Options(
    name="tiny",
    version="0.1.0",
    licence="Apache-2.0",
    data="rendered bins",
    risk=0.3,
    budget=_WIDE,
    range_frames=24,
    min_frames=1,
)


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    return export_run(small_run, out, _OPTIONS, step=lambda _: None)


def test_export_run_bundle_verifies_and_counts(exported: Exported, small_run: Path) -> None:
    counter = Counter.open(exported.bundle.path)
    dataset = Dataset.open(load_run(small_run).dataset)
    result = counter.count([read(dataset.path_of(0))])
    assert counter.engine.role == "cpu"
    assert result.label in counter.classes
    assert sum(result.posterior) == pytest.approx(1)


def test_export_run_models_have_the_promised_form(exported: Exported) -> None:
    for entry in exported.bundle.manifest.models:
        model = onnx.load_model_from_string(exported.bundle.read(entry.file))
        opsets = {opset.domain: opset.version for opset in model.opset_import}
        assert opsets[""] == entry.opset == 17
        assert all(t.data_location != onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_export_run_int8_model_is_int8(exported: Exported) -> None:
    model = onnx.load_model_from_string(exported.bundle.read("model.cpu.onnx"))
    kinds = [node.op_type for node in model.graph.node]
    weights = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds.count("QuantizeLinear") > 20
    assert onnx.TensorProto.INT8 in weights.values()
    assert len(exported.bundle.read("model.cpu.onnx")) < len(exported.bundle.read("model.fp32.onnx"))


def test_export_run_records_where_it_comes_from(exported: Exported, small_run: Path) -> None:
    run = load_run(small_run)
    provenance = exported.bundle.manifest.provenance
    assert provenance.dataset_sha256 == run.dataset_sha256
    assert provenance.config_sha256 == run.config_sha256
    assert provenance.initial_weights.startswith("none")


def test_export_run_measures_on_the_test_split(exported: Exported, small_run: Path) -> None:
    dataset = Dataset.open(load_run(small_run).dataset)
    assert exported.measured_on == "test"
    assert exported.measured["n"] == len(dataset.select(split="test"))


def test_export_run_card_holds_the_figures(exported: Exported) -> None:
    card = exported.bundle.read("card.md").decode()
    assert f"{exported.measured['accuracy']:.3f}" in card
    assert "must not be used" in card


def test_export_run_beyond_the_budget_writes_nothing(small_run: Path, tmp_path: Path) -> None:
    strict = ParityBudget(min_agreement=0, max_mean_tv=0.0, max_accuracy_drop=1)
    options = replace(_OPTIONS, budget=strict, float_convs=0)
    with pytest.raises(ParityError, match="mean total variation"):
        export_run(small_run, tmp_path / "refused", options, step=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["refused.refused"]


def _with_wrong_scales(prepared: Prepared) -> Prepared:
    wrong = {
        name: Filters(filters.rounded, filters.scales * np.float32(3), filters.bias * np.float32(3))
        for name, filters in prepared.filters.items()
    }
    return replace(prepared, filters=wrong)


def test_export_run_bad_quantisation_is_refused_with_the_worst_frames(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and biases three times too large, as a wrong scale makes them: the usual budget sees it."""
    monkeypatch.setattr("export.job.prepare", lambda model, tensors: _with_wrong_scales(prepare(model, tensors)))
    options = replace(_OPTIONS, budget=BUDGET, float_convs=0, tensorrt=False)
    with pytest.raises(ParityError, match=r"agreement 0\.0.*The worst frames: .*b\.refused"):
        export_run(small_run, tmp_path / "b", options, step=lambda _: None)
    report = json.loads((tmp_path / "b.refused" / "worst.json").read_text())
    distances = [frame["distance"] for frame in report["frames"]]
    assert distances == sorted(distances, reverse=True)
    for frame in report["frames"]:
        assert read(tmp_path / "b.refused" / frame["picture"]).shape == (64, 64, 3)
        assert sum(frame["int8"].values()) == pytest.approx(1, abs=1e-3)


def test_export_run_budget_that_int8_misses_leaves_convolutions_in_float(small_run: Path, tmp_path: Path) -> None:
    narrow = ParityBudget(min_agreement=0, max_mean_tv=1e-6, max_accuracy_drop=1)
    options = replace(_OPTIONS, budget=narrow, tensorrt=False)
    exported = export_run(small_run, tmp_path / "float", options, step=lambda _: None)
    numbers = [attempt.float_convolutions for attempt in exported.attempts]
    assert numbers == [0, 1, 2, 4, 8, 16, 32, 52][: len(numbers)]
    assert [attempt.refusal is None for attempt in exported.attempts] == [False] * (len(numbers) - 1) + [True]
    assert len(exported.bundle.manifest.models[1].float_nodes) == numbers[-1] + 1
    assert numbers[-1] > 0


def test_export_run_int8_files_keep_every_rule(exported: Exported) -> None:
    dialects: tuple[Dialect, ...] = ("cpu", "tensorrt")
    for dialect in dialects:
        entry = exported.bundle.manifest.model(dialect)
        assert entry is not None
        assert lint(exported.bundle.read(entry.file), dialect, max_opset=17) == []


def test_export_run_file_that_breaks_a_rule_is_not_packed(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.job.lint", lambda *_, **__: [Finding("opset", "model", "operator set 99")])
    with pytest.raises(BundleError, match="opset: model operator set 99"):
        export_run(small_run, tmp_path / "b", replace(_OPTIONS, tensorrt=False, float_convs=0), step=lambda _: None)
    assert not (tmp_path / "b").exists()


def test_export_run_onnx_that_differs_from_torch_is_not_packed(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.job.infer_torch", lambda model, inputs: infer_torch(model, inputs) + np.float32(0.1))
    with pytest.raises(ParityError, match=r"a logit off by 0\.1"):
        export_run(small_run, tmp_path / "b", _OPTIONS, step=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_export_run_too_few_photos_to_judge_on_is_refused(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"too few photos .* expected at least 200"):
        export_run(small_run, tmp_path / "b", replace(_OPTIONS, min_frames=200), step=lambda _: None)


def test_export_run_judges_both_int8_models(exported: Exported) -> None:
    results = exported.bundle.manifest.parity.results
    assert [result.role for result in results] == ["cpu", "tensorrt"]
    assert all(result.accuracy_drop_ci is not None for result in results)


def test_export_run_ensemble_that_looks_twice_is_packed_and_names_every_network(
    small_run: Path, tmp_path: Path
) -> None:
    config = read_config(small_run).config
    other = {"name": "shufflenet_v2_x0_5", "options": {}}
    config = config.model_copy(update={"epochs": 1, "model": config.model.model_copy(update=other)})
    place = Place(dataset=load_run(small_run).dataset, out=tmp_path / "other", threads=1)
    train(config, place, progress=Silent())
    make_ensemble([small_run, tmp_path / "other"], tmp_path / "both")
    options = replace(_OPTIONS, tensorrt=False, float_convs=0, tta=True)
    exported = export_run(tmp_path / "both", tmp_path / "b", options, step=lambda _: None)
    assert exported.bundle.manifest.provenance.model == "mobilenet_v2 + shufflenet_v2_x0_5"
    assert "Network: mobilenet_v2 + shufflenet_v2_x0_5, " in exported.bundle.read("card.md").decode()


def test_export_run_without_tensorrt_has_two_models(small_run: Path, tmp_path: Path) -> None:
    options = replace(_OPTIONS, tensorrt=False)
    exported = export_run(small_run, tmp_path / "cpu", options, step=lambda _: None)
    assert [entry.role for entry in exported.bundle.manifest.models] == ["reference", "cpu"]


def test_export_run_existing_folder_is_refused(exported: Exported, small_run: Path) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        export_run(small_run, exported.bundle.path, _OPTIONS, step=lambda _: None)


def test_export_run_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        export_run(tmp_path, tmp_path / "out", _OPTIONS, step=lambda _: None)


def test_export_command_json_names_every_figure(small_run: Path, tmp_path: Path) -> None:
    arguments = [str(small_run), "--out", str(tmp_path / "b"), "--licence", "Apache-2.0", "--data", "rendered bins"]
    wide = [
        "--min-agreement",
        "0",
        "--max-mean-tv",
        "1",
        "--max-accuracy-drop",
        "1",
        "--min-sure-agreement",
        "0",
        "--min-frames",
        "1",
        "--json",
    ]
    done = CliRunner().invoke(export, arguments + wide)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(report) == {
        "bundle", "digest", "onnx_max_abs_logit", "parity", "calibration", "measured_on", "measured",
    }  # fmt: skip
    assert report["digest"] == load_bundle(tmp_path / "b").digest
    assert np.isfinite(report["onnx_max_abs_logit"])
