"""The real agent for tests: its configuration, its process, its photos."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.images import encode_jpeg
from edge_agent.config_file import load_config
from tests.simulators.bundle_factory import grey
from tests.simulators.object_store import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.config import AgentConfig

ROOT = Path(__file__).resolve().parents[2]
_CLOSED_PORT = 9


def write_photos(folder: Path, counts: Sequence[float]) -> Path:
    """Photos named 0000.jpg on, which the tiny bundle counts as `counts`; halves are unsure."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(counts))
    for number, count in enumerate(counts):
        image = grey(count).astype(np.int16) + noise.integers(-3, 4, (48, 64, 3))
        (folder / f"{number:04d}.jpg").write_bytes(encode_jpeg(np.clip(image, 0, 255).astype(np.uint8), 95))
    return folder


def config_text(
    *, bundle: Path, source: object, state: Path, port: int | None = None, camera: str = "", rest: str = ""
) -> str:
    """A configuration for tests, quick in every pause."""
    shown = source if isinstance(source, int) else json.dumps(str(source))
    return f"""
[robot]
site = "wh1"
id = "r1"
[bundle]
path = {json.dumps(str(bundle))}
engine = "onnxruntime"
threads = 1
[[cameras]]
source = {shown}
restart_max_s = 0.2
{camera}
[state]
path = {json.dumps(str(state))}
[mqtt]
port = {port or _CLOSED_PORT}
reconnect_max_s = 0.3
[stop]
drain_timeout_s = {30 if port else 0}
stop_timeout_s = 10
{rest}
"""


def load_text(folder: Path, text: str) -> AgentConfig:
    """Parse a configuration as the agent does."""
    file = folder / "agent.toml"
    file.write_text(text, encoding="utf-8")
    return load_config(file).config


@dataclass(slots=True)
class AgentProcess:
    """`bintally agent run --json` as a process of its own.

    Attributes:
        counts: Accepted counts, as the process printed them after their commit.
        totals: Its last line, when it ended in order.
    """

    process: subprocess.Popen[str]
    counts: list[dict[str, Any]] = field(default_factory=list)
    totals: dict[str, Any] = field(default_factory=dict)
    stderr: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path, text: str, command: Sequence[str] = (), **environment: str) -> AgentProcess:
        """Start it, or with `command` what stands in for it, which gets the configuration as its last argument."""
        file = folder / "agent.toml"
        file.write_text(text, encoding="utf-8")
        usual = [sys.executable, str(ROOT / "bintally.py"), "agent", "run", "--json", "--config"]
        process = subprocess.Popen(
            [*(command or usual), str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **CREDENTIALS, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        )
        agent = cls(process)
        for target in (agent._read_stdout, agent._read_stderr):
            agent._threads.append(threading.Thread(target=target, daemon=True))
            agent._threads[-1].start()
        return agent

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("}\n"):
                fields = json.loads(line)
                if "totals" in fields:
                    self.totals = fields["totals"]
                elif "event_id" in fields:
                    self.counts.append(fields)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        self.stderr.extend(self.process.stderr)

    @property
    def ended(self) -> bool:
        """It has ended by itself."""
        return self.process.poll() is not None

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait for the end and for everything that it printed."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for thread in self._threads:
            thread.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code
