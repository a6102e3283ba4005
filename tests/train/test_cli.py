"""The commands as a person types them, each in a process of its own where that matters."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner

from bundle.errors import ConfigError, InputError
from tests.train.tiny import CONFIG
from train.cli import train
from train.cli_evaluate import evaluate

if TYPE_CHECKING:
    from pathlib import Path

_DEADLINE_S = 120.0
_FLAGS = [
    *("--counts", "1-3", "--model", "mobilenet_v2", "--size", "32", "--lr", "0.01", "--batch-size", "8"),
    *("--set", 'model.options={"width_mult": 0.1}', "--set", "ema=0.9", "--threads", "1", "--epochs", "2"),
]


def _command(repository: Path, dataset: Path, out: Path, *flags: str) -> list[str]:
    script = [sys.executable, str(repository / "bintally.py"), "train", str(dataset), "--out", str(out)]
    return [*script, *_FLAGS, *flags]


@pytest.fixture(scope="module")
def run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run made by the command in this process, and what it printed."""
    out = tmp_path_factory.mktemp("cli") / "run"
    found = CliRunner().invoke(train, [str(tiny_dataset), "--out", str(out), *_FLAGS, "--json"], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return out, found.stdout


def test_train_json_prints_the_figures_as_its_last_line(run: tuple[Path, str]) -> None:
    out, printed = run
    figures = json.loads(printed.splitlines()[-1])
    assert figures == json.loads((out / "metrics.json").read_text())
    assert figures["classes"] == CONFIG["counts"]


def test_evaluate_json_has_the_agreed_keys(run: tuple[Path, str], tiny_dataset: Path, tmp_path: Path) -> None:
    target = [str(run[0]), "--data", str(tiny_dataset), "--split", "val"]
    flags = ["--json", "--predictions", str(tmp_path / "p.npz")]
    figures = json.loads(CliRunner().invoke(evaluate, [*target, *flags], catch_exceptions=False).stdout)
    estimates = {"accuracy", "rmse", "rmse_posterior_mean", "mae", "within_1", "ece", "aurc"}
    estimates |= {"macro_precision", "macro_recall", "macro_f1"}
    assert {"n", "per_class", "confusion", *estimates, *(f"{name}_ci" for name in estimates)} <= figures.keys()
    of_class = {"precision", "recall", "f1"}
    expected = {"support", *of_class, *(f"{name}_ci" for name in of_class)}
    assert {frozenset(row) for row in figures["per_class"].values()} == {frozenset(expected)}
    assert (tmp_path / "p.npz").is_file()
    table = CliRunner().invoke(evaluate, target, catch_exceptions=False).stdout
    assert f"accuracy              {figures['accuracy']:.4f}" in table
    assert f"macro_recall          {figures['macro_recall']:.4f}" in table


def test_evaluate_neither_run_nor_bundle_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a run nor a bundle"):
        CliRunner().invoke(evaluate, [str(tmp_path), "--data", str(tiny_dataset)], catch_exceptions=False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--counts", "1,3"], "count classes"),
        (["--stages", "160"], "SIZExEPOCHS"),
        (["--mean", "a,b,c"], "list of numbers"),
        (["--set", "epochs"], "KEY=VALUE"),
        (["--set", "optimizer.speed=3"], r"optimizer\.speed"),
        (["--model", "mobilenet_v9"], "mobilenet_v2"),
    ],
)
def test_train_bad_flag_is_named(tiny_dataset: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(train, [str(tiny_dataset), "--out", str(tmp_path / "run"), *flags], catch_exceptions=False)


def test_help_is_quick_because_it_imports_no_torch(repository: Path) -> None:
    code = (
        "import sys, bintally; bintally.cli(['train', '-h'], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True, capture_output=True, timeout=_DEADLINE_S)


def test_train_killed_at_random_moments_ends_with_the_same_weights(
    run: tuple[Path, str], repository: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    command = _command(repository, tiny_dataset, tmp_path / "cut", "--checkpoint-s", "0", "--resume")
    moments = random.Random(20)
    for _ in range(2):
        _kill_after_updates(command, tmp_path / "cut", moments.randint(1, 10))
    subprocess.run(command, check=True, timeout=_DEADLINE_S)
    whole, cut = (torch.load(folder / "model.pt", weights_only=True) for folder in (run[0], tmp_path / "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_train_sigterm_checkpoints_and_says_how_to_go_on(repository: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = _command(repository, tiny_dataset, out, "--epochs", "1000", "--checkpoint-s", "0")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    _wait_for_replacements(out / "checkpoint.pt", 1, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=_DEADLINE_S)
    assert process.returncode == 75
    assert "--resume" in said
    assert "Traceback" not in said


def _kill_after_updates(command: list[str], out: Path, updates: int) -> None:
    """SIGKILL the training once its checkpoint was replaced that often: at no moment of the code in particular."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _wait_for_replacements(out / "checkpoint.pt", updates, process)
    process.kill()
    process.wait(timeout=_DEADLINE_S)


def _wait_for_replacements(path: Path, wanted: int, process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    seen: set[int] = {path.stat().st_mtime_ns} if path.exists() else set()
    before = len(seen)
    deadline = time.monotonic() + _DEADLINE_S
    while len(seen) < before + wanted and process.poll() is None:
        assert time.monotonic() < deadline, "the training wrote no checkpoint"
        try:
            seen.add(path.stat().st_mtime_ns)
            time.sleep(0.001)
        except FileNotFoundError:
            time.sleep(0.002)
