"""The files in deploy/training, run in the layout that the platform gives them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import click
import pytest
import torch

import bintally
from tests.train.tiny import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

_DEADLINE_S = 240.0


@pytest.fixture(scope="module")
def entry(repository: Path) -> Any:  # noqa: ANN401 - a script, loaded as a module
    spec = importlib.util.spec_from_file_location("entry", repository / "deploy" / "training" / "sagemaker_entry.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _environment(tiny_dataset: Path, opt_ml: Path, repository: Path, **parameters: object) -> dict[str, str]:
    """The variables of a script-mode job on one host without GPU."""
    wanted = {
        "counts": "1-3",
        "model": "mobilenet_v2",
        "size": 32,
        "batch-size": 8,
        "lr": 0.01,
        "epochs": 2,
        "checkpoint-s": 0,
        "device": "cpu",
        "threads": 1,
        "set.model.options": CONFIG["model.options"],
        "set.ema": 0.9,
        "sagemaker_region": "us-east-1",
        **parameters,
    }
    return os.environ | {
        "SM_CHANNEL_TRAINING": str(tiny_dataset),
        "SM_HPS": json.dumps(wanted),
        "SM_NUM_GPUS": "0",
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_MODEL_DIR": str(opt_ml / "model"),
        "SM_OUTPUT_DATA_DIR": str(opt_ml / "output" / "data"),
        "BINTALLY_CHECKPOINTS": str(opt_ml / "checkpoints"),
        "PYTHONPATH": str(repository),
    }


def test_sagemaker_entry_sigterm_checkpoints_and_the_next_job_ends_the_run(
    repository: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    script = [sys.executable, str(repository / "deploy" / "training" / "sagemaker_entry.py")]
    environment = _environment(tiny_dataset, tmp_path, repository)
    first = subprocess.Popen(script, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "checkpoints" / "run" / "checkpoint.pt"
    deadline = time.monotonic() + _DEADLINE_S
    while not checkpoint.exists() and first.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=_DEADLINE_S) in (75, 0)  # 0: it was faster than the signal
    subprocess.run(script, env=environment, check=True, timeout=_DEADLINE_S, stdout=subprocess.DEVNULL)
    assert torch.load(tmp_path / "model" / "run" / "model.pt", weights_only=True)
    assert not (tmp_path / "model" / "run" / "checkpoint.pt").exists()
    assert (tmp_path / "output" / "data" / "report.html").is_file()


def test_sagemaker_entry_several_hosts_and_gpus_go_through_torchrun(entry: Any) -> None:  # noqa: ANN401 - a module
    words = entry.command(
        {
            "SM_CHANNEL_TRAINING": "/opt/ml/input/data/training",
            "SM_HPS": '{"preset": "bintally-best", "deterministic": true, "compile": false}',
            "SM_NUM_GPUS": "4",
            "SM_HOSTS": '["algo-2", "algo-1"]',
            "SM_CURRENT_HOST": "algo-2",
        }
    )
    text = " ".join(words[1:])
    assert text.startswith("-m torch.distributed.run --nproc-per-node 4 --nnodes 2 --node-rank 1 --master-addr algo-1")
    assert text.endswith(
        "train /opt/ml/input/data/training --out /opt/ml/checkpoints/run --resume "
        "--preset bintally-best --deterministic"
    )


def test_trainjob_command_is_one_that_the_program_takes(repository: Path) -> None:
    text = (repository / "deploy" / "training" / "trainjob.yaml").read_text(encoding="utf-8")
    # Read by hand: one item per line, and no YAML package in the environment.
    block = re.search(r"command:\n((?: +- .*\n)+) +args:\n((?: +- .*\n)+)", text)
    assert block is not None
    command, arguments = ([line.strip().removeprefix("- ") for line in part.splitlines()] for part in block.groups())
    assert command == ["torchrun"]
    assert arguments[:3] == ["-m", "bintally", "train"]
    context = click.Context(bintally.cli)
    train = bintally.cli.get_command(context, "train")
    assert train is not None
    train.make_context("train", arguments[3:], parent=context)
