"""SIGKILL at twenty random moments: the resumed run ends with the weights of the uninterrupted one.

python -m pytest -m soak tests/train/test_soak.py -s      prints the figure
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from pathlib import Path

_KILLS = 20
_DEADLINE_S = 600.0
_FLAGS = [
    *("--counts", "1-3", "--size", "32", "--batch-size", "4", "--epochs", "24", "--threads", "1", "--device", "cpu"),
    *("--set", 'model.options={"width_mult": 0.1}', "--set", "ema=0.9", "--set", "pairs.weight=0.2"),
    *("--checkpoint-s", "0.05"),
]


@pytest.mark.soak
def test_train_killed_at_twenty_random_moments_ends_bit_for_bit_the_same(
    repository: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    def command(name: str, workers: int) -> list[str]:
        words = [sys.executable, str(repository / "bintally.py"), "train", str(tiny_dataset), "--out"]
        return [*words, str(tmp_path / name), *_FLAGS, "--workers", str(workers), "--resume"]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole", 1), env=environment, check=True, timeout=_DEADLINE_S)
    moments = random.Random(4)
    killed = 0
    # After the run folder exists, at any moment: while starting, computing, writing a checkpoint, judging.
    while killed < _KILLS:
        process = subprocess.Popen(command("cut", moments.randint(0, 2)), env=environment, stderr=subprocess.DEVNULL)
        mark = _newest(tmp_path / "cut")
        deadline = time.monotonic() + _DEADLINE_S
        while process.poll() is None and _newest(tmp_path / "cut") == mark and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.random() * 0.6)
        process.kill()
        if process.wait() == 0:
            break
        killed += 1
    subprocess.run(command("cut", 1), env=environment, check=True, timeout=_DEADLINE_S)
    whole, cut = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "cut"))
    different = sum(not torch.equal(whole[name], cut[name]) for name in whole)
    print(f'{{"kills": {killed}, "tensors": {len(whole)}, "different": {different}}}')  # noqa: T201 - the figure
    assert killed == _KILLS
    assert different == 0


def _newest(folder: Path) -> int:
    """When the checkpoint was last replaced; 0 before the first."""
    try:
        return (folder / "checkpoint.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0
