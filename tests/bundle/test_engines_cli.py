from __future__ import annotations

import json
from typing import TYPE_CHECKING

from click.testing import CliRunner

from bundle.cli import bundle
from bundle.engines.cli import engine
from bundle.engines.machine import describe_machine
from bundle.engines.ort import OrtEngine
from bundle.engines.report import machine_lines, table
from bundle.golden import read_golden
from bundle.verify import load_bundle
from tests.simulators.bundle_factory import write_manifest

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pytest
    from numpy.typing import NDArray

_ROW = {
    "engine": "openvino",
    "name": "openvino-int8",
    "role": "cpu",
    "open_s": 0.5,
    "reopen_s": 0.1,
    "built_s": None,
    "golden_max_abs_logit": 0.0123,
    "latency_ms": {"p50": 1.25, "p90": 1.5, "p99": 2.0, "calls": 100},
    "frames_per_s": {"1": 800.0, "4": 900.0},
    "rss_mb": 60.0,
    "reason": "openvino-int8: asked for by name",
}


def test_bench_json_names_machine_and_every_figure(tiny_bundle: Path) -> None:
    arguments = ["bench", str(tiny_bundle), "--engine", "onnxruntime", "--seconds", "0.1", "--batch", "2", "--json"]
    done = CliRunner().invoke(engine, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    (row,) = report["engines"]
    assert row["name"] == "onnxruntime-int8"
    assert row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
    assert set(row["frames_per_s"]) == {"1", "2"}
    assert report["machine"]["packages"]["onnxruntime"]


def test_bench_engine_that_misses_the_golden_frames_is_named_and_fails(tiny_bundle: Path) -> None:
    content = load_bundle(tiny_bundle).manifest.model_dump(mode="json")
    content["preprocessing"]["mean"] = [0.5, 0.5, 0.5]
    write_manifest(tiny_bundle, content)
    done = CliRunner().invoke(engine, ["bench", str(tiny_bundle), "--engine", "onnxruntime", "--seconds", "0.1"])
    assert "onnxruntime: engine onnxruntime-int8 misses the golden frames" in done.stdout
    assert "no engine runs this bundle" in str(done.exception)


def test_table_aligns_rows_and_keeps_failures() -> None:
    lines = table([_ROW, {"engine": "tensorrt", "error": "TensorRT is not installed"}]).splitlines()
    assert len(lines[0]) == len(lines[1])
    assert lines[1].split() == ["openvino-int8", "1.25", "2.00", "800", "900", "(x4)", "0.50", "0.10", "60", "0.012"]
    assert lines[2] == "tensorrt: TensorRT is not installed"


def test_describe_machine_says_what_matters_and_hides_what_is_empty() -> None:
    machine = describe_machine()
    assert isinstance(machine["cores"], int)
    assert machine["cores"] >= 1
    assert "numpy" in machine_lines(machine)
    assert "jetson" not in machine_lines({"jetson": "", "cores": 2})


def test_bundle_verify_runs_each_model_once_on_each_golden_frame(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    run = OrtEngine._run

    def counted(self: OrtEngine, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(self.role)
        return run(self, tensor)

    monkeypatch.setattr(OrtEngine, "_run", counted)
    done = CliRunner().invoke(bundle, ["verify", str(tiny_bundle), "--json"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["golden_max_abs_logit"]) == {"onnxruntime-int8", "onnxruntime-fp32"}
    frames = len(read_golden(load_bundle(tiny_bundle), "cpu").frames)
    assert sorted(calls) == ["cpu"] * frames + ["reference"] * frames
