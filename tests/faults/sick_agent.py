"""The agent with an engine that falls ill on order: `python -m tests.faults.sick_agent CONTROL CONFIG`.

Everything else is the command `bintally agent run --json`. The control file is read before every run of the network:
"nan", "inf" and "constant" spoil the logits, "shape" gives too many, "raise" and "memory" raise what a runtime raises,
"half" spoils every second run, "hang" never returns, "segv" and "kill" end the process as a driver and the kernel do;
anything else leaves the engine as it is. "kill@2.0.0" concerns bundles of that version alone, once they are loaded.
SICK_PATIENCE_S shortens the patience with what hangs. A source that names the simulated camera
(`tests.simulators.camera`) is one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import bintally
from bundle.engines.choose import open_engine
from bundle.engines.ort import OrtEngine
from edge_agent import assemble, loading, stages
from edge_agent.commands import bundles
from edge_agent.health import guard
from tests.simulators.camera import COMMAND, PREFIX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.engines.base import Engine
    from bundle.verify import Bundle

_healthy = OrtEngine._run
_runs = 0
_versions: dict[int, str] = {}


def open_and_note(bundle: Bundle, *, engine: str = "auto", threads: int | None = None) -> Engine:
    """Open an engine, as the agent does, and note whose it is."""
    opened = open_engine(bundle, engine=engine, threads=threads)
    _versions[id(opened)] = bundle.manifest.version
    return opened


def spoil(logits: NDArray[np.float32], order: str) -> NDArray[np.float32]:
    """What an ill engine makes of right logits."""
    if order == "hang":
        threading.Event().wait()
    if order in ("segv", "kill"):
        os.kill(os.getpid(), signal.SIGSEGV if order == "segv" else signal.SIGKILL)
    if order == "raise":
        raise RuntimeError("an illegal memory access was encountered")
    if order == "memory":
        raise MemoryError("cudaErrorMemoryAllocation")
    if order == "shape":
        return np.concatenate([logits, logits], axis=1)
    if order in ("nan", "inf"):
        logits = np.full_like(logits, float(order))
    return np.ones_like(logits) if order == "constant" else logits


def main(control: Path, config: str) -> None:
    """Run the agent."""

    def run(self: OrtEngine, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        global _runs  # noqa: PLW0603 - one engine, one process
        _runs += 1
        order, _, version = control.read_text(encoding="utf-8").strip().partition("@")
        if version not in ("", _versions.get(id(self))):
            order = ""
        if order == "half":
            order = ("nan", "")[_runs % 2]
        return spoil(_healthy(self, tensor_nchw), order)

    patience_s = float(os.environ.get("SICK_PATIENCE_S", guard.PATIENCE_S))
    guard.PATIENCE_S, stages.BUDGETS_S["loop"] = patience_s, patience_s / 3
    for module in (loading, bundles):
        module.__dict__["open_engine"] = open_and_note
    OrtEngine._run = run  # type: ignore[method-assign]  # the point of this file
    if PREFIX in Path(config).read_text(encoding="utf-8"):
        assemble.assemble = partial(assemble.assemble, capture_command=COMMAND)
    sys.argv = ["bintally", "agent", "run", "--config", config, "--json"]
    bintally.main()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
