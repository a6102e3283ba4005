"""Agents that start in no time: one process has imported everything, and each agent is a fork of it.

The fork runs the same command as `bintally agent run --json` and starts its own capture process; only the imports are
saved, which are most of a start. What it prints goes to a file that outlives it.

`python -m tests.faults.nursery` reads "CONFIG OUT ERR" or "wait PID" per line, and answers a process id or exit code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]


class Nursery:
    """The process that forks agents."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def ask(self, line: str) -> int:
        """Send an order and take its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        return int(self._process.stdout.readline())


class ForkedAgent:
    """One agent: the part of `AgentProcess` that a series of kills needs.

    Args:
        nursery: Where it is born.
        folder: For its configuration and what it prints.
        text: Its configuration.
    """

    def __init__(self, nursery: Nursery, folder: Path, text: str) -> None:
        config = folder / "agent.toml"
        config.write_text(text, encoding="utf-8")
        self._nursery = nursery
        self._out, self._err = folder / "agent.out", folder / "agent.err"
        self._out.write_bytes(b"")
        self.pid = nursery.ask(f"{config} {self._out} {self._err}")

    @property
    def counts(self) -> list[dict[str, Any]]:
        """Accepted counts, as it printed them after their commit."""
        lines = self._out.read_bytes().split(b"\n")[:-1]
        return [fields for line in lines if "event_id" in (fields := json.loads(line))]

    @property
    def stderr(self) -> str:
        """What it logged."""
        return self._err.read_text(encoding="utf-8")

    @property
    def ended(self) -> bool:
        """It has ended by itself."""
        return Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        self._nursery.ask(f"wait {self.pid}")


def main() -> None:
    """Fork agents until standard input ends."""
    import edge_agent.assemble
    import edge_agent.delivery.s3  # noqa: F401 - imported once, for every fork

    for line in sys.stdin:
        words = line.split()
        answer = _exit_code(int(words[1])) if words[0] == "wait" else _fork(*words)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fork(config: str, out: str, err: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    for name, descriptor in ((os.devnull, 0), (out, 1), (err, 2)):
        opened = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    from edge_agent.cli import agent

    agent(["run", "--config", config, "--json"])
    os._exit(1)  # click ends the process; this is never reached


if __name__ == "__main__":
    main()
