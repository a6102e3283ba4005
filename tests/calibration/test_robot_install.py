"""What a robot installs is enough: no torch, no OpenVINO, no SciPy, no progress bars."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.calibration.conv_bundle import make_conv_bundle
from tests.calibration.scenes import write_records

if TYPE_CHECKING:
    from pathlib import Path

_WITHOUT = ("torch", "torchvision", "openvino", "tensorrt", "scipy", "rich", "tqdm", "pyarrow", "boto3", "paho")
_START = f"""
import sys
sys.modules.update(dict.fromkeys({_WITHOUT!r}))  # as if they were not installed
import bintally
bintally.main()
"""


def test_calibrate_ranges_needs_onnx_and_onnx_runtime_alone(tmp_path: Path, repository: Path) -> None:
    bundle = make_conv_bundle(tmp_path / "conv")
    visits = write_records(tmp_path / "visits", 60, 3, labelled=False)
    command = [sys.executable, "-c", _START, "calibrate", "ranges", str(bundle), str(visits), "--out"]
    done = subprocess.run(
        [*command, str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--json"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["parity"]["cpu"]["mean_tv"] < 0.02
    assert len(list((tmp_path / "cache").iterdir())) == 1
