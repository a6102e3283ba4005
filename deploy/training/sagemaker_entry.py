"""`bintally train` as a SageMaker script-mode job: the platform's variables in, the command out.

    estimator = PyTorch(entry_point="sagemaker_entry.py", source_dir=..., checkpoint_s3_uri="s3://...",
                        hyperparameters={"preset": "bintally-best", "epochs": 16, "set.loss.weight": 0.5}, ...)

- The channel `training` holds the dataset folder, with its photos below it; `weights`, if there is one, a weights file.
- A hyperparameter is a flag of `bintally train`: `batch-size` becomes --batch-size; `set.KEY` becomes --set KEY=VALUE.
- The run folder is /opt/ml/checkpoints/run, which the platform copies to checkpoint_s3_uri and brings back after a spot
  interruption; the job always goes on from it. SIGTERM is passed on: the training writes a checkpoint and ends.
- The finished run is copied to SM_MODEL_DIR, the report to SM_OUTPUT_DATA_DIR.
- Several GPUs or hosts are joined by torchrun. Standard library only, so it starts without being installed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

_PORT = 29500
_PLATFORM = "sagemaker_"


def command(environment: Mapping[str, str]) -> list[str]:
    """Write the command that this host runs.

    Args:
        environment: SM_CHANNEL_TRAINING, SM_HPS, SM_NUM_GPUS, SM_HOSTS, SM_CURRENT_HOST.

    Returns:
        Program and arguments.
    """
    hosts = sorted(json.loads(environment.get("SM_HOSTS", '["local"]')))
    gpus = max(1, int(environment.get("SM_NUM_GPUS", "0") or 0))
    words = [sys.executable]
    if gpus * len(hosts) > 1:
        rank = hosts.index(environment["SM_CURRENT_HOST"])
        words += ["-m", "torch.distributed.run", "--nproc-per-node", str(gpus), "--nnodes", str(len(hosts))]
        words += ["--node-rank", str(rank), "--master-addr", hosts[0], "--master-port", str(_PORT)]
    words += ["-m", "bintally", "train", environment["SM_CHANNEL_TRAINING"]]
    words += ["--out", str(run_folder(environment)), "--resume", *_flags(json.loads(environment.get("SM_HPS", "{}")))]
    weights = environment.get("SM_CHANNEL_WEIGHTS")
    return [*words, "--weights", str(_only_file(Path(weights)))] if weights else words


def run_folder(environment: Mapping[str, str]) -> Path:
    """Say where the run lives while it trains.

    Args:
        environment: BINTALLY_CHECKPOINTS stands in for /opt/ml/checkpoints.

    Returns:
        The run folder.
    """
    return Path(environment.get("BINTALLY_CHECKPOINTS", "/opt/ml/checkpoints")) / "run"


def _flags(parameters: Mapping[str, object]) -> list[str]:
    words = []
    for name, value in parameters.items():
        if name.startswith(_PLATFORM):
            continue
        if name.startswith("set."):
            words += ["--set", f"{name.removeprefix('set.')}={value if isinstance(value, str) else json.dumps(value)}"]
        elif isinstance(value, bool):
            words += [f"--{name}"] if value else []
        else:
            words += [f"--{name}", str(value)]
    return words


def _only_file(folder: Path) -> Path:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if len(files) != 1:
        sys.exit(f"the channel `weights` must hold one file, it holds {len(files)}")
    return files[0]


def _collect(environment: Mapping[str, str]) -> None:
    """Copy the result to where the platform looks for it."""
    run = run_folder(environment)
    model = Path(environment.get("SM_MODEL_DIR", "/opt/ml/model"))
    output = Path(environment.get("SM_OUTPUT_DATA_DIR", "/opt/ml/output/data"))
    if not (run / "model.pt").is_file():  # not the first host
        return
    shutil.copytree(run, model / "run", ignore=shutil.ignore_patterns("checkpoint.pt", ".*"), dirs_exist_ok=True)
    output.mkdir(parents=True, exist_ok=True)
    for name in ("report.html", "metrics.json"):
        shutil.copy2(run / name, output / name)


def main() -> int:
    """Train on this host.

    Returns:
        Exit status of the training.
    """
    words = command(os.environ)
    print(" ".join(words), flush=True)  # noqa: T201 - the job's log
    child = subprocess.Popen(words)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    status = child.wait()
    if status == 0:
        _collect(os.environ)
    return status


if __name__ == "__main__":
    sys.exit(main())
