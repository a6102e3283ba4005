"""A bundle is tried in a process of its own, as `python -m edge_agent.commands.trial BUNDLE ENGINE THREADS`.

A model can crash its runtime, or take all memory: then this process dies, not the agent. It runs the golden frames.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bundle.counter import Counter
from bundle.errors import BintallyError, EngineError

if TYPE_CHECKING:
    from edge_agent.config import BundleSection

_TIMEOUT_S = 900.0
"""A TensorRT engine may be built on the way."""
_ROOT = Path(__file__).resolve().parents[2]


def try_bundle(path: Path, section: BundleSection, threads: int) -> None:
    """Load a bundle in a process of its own.

    Args:
        path: Its folder.
        section: Which engine.
        threads: Of the engine.

    Raises:
        EngineError: It does not run on this machine.
    """
    command = [sys.executable, "-m", "edge_agent.commands.trial", str(path), section.engine, str(threads)]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise EngineError("the bundle could not be loaded in time", got=f"{_TIMEOUT_S:g} s") from exc
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or [f"its process ended with code {done.returncode}"]
        raise EngineError("the bundle does not run on this machine", got=words[0][:500])


def main(arguments: list[str]) -> int:
    """Load a bundle.

    Args:
        arguments: Folder, engine, threads.

    Returns:
        Exit code: 0 when it can count.
    """
    path, engine, threads = arguments
    try:
        Counter.open(Path(path), engine=engine, threads=int(threads)).close()
    except BintallyError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
