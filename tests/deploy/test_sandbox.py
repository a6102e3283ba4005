"""The agent under the system call filter of its unit, and what the filter forbids."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.edge_agent.running import config_text, write_photos
from tests.simulators.seccomp import HEADER

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not HEADER.exists() or shutil.which("systemd-analyze") is None,
    reason="no x86-64 kernel headers or no systemd-analyze",
)
_FORBIDDEN = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
tries = {
    "mount": lambda: libc.mount(b"none", b"/mnt", b"tmpfs", 0, None),
    "ptrace": lambda: libc.ptrace(16, os.getppid(), 0, 0),
    "adjtimex": lambda: libc.adjtimex(ctypes.create_string_buffer(512)),
    "setuid": lambda: libc.setuid(0),
    "unshare": lambda: libc.unshare(0x20000000),
    "bpf": lambda: libc.syscall(321, 0, 0, 0),
}
for name, act in tries.items():
    refused = act() == -1 and ctypes.get_errno() == errno.EPERM
    print(name, "refused" if refused else "allowed")
"""


def under_filter(repository: Path, *command: str) -> subprocess.CompletedProcess[str]:
    unit = repository / "deploy/systemd/bintally-agent.service"
    return subprocess.run(
        [sys.executable, "-m", "tests.simulators.seccomp", str(unit), sys.executable, *command],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_agent_counts_under_the_filter_of_its_unit(
    repository: Path, tmp_path: Path, tiny_bundle: Path, engine: str
) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    photos = write_photos(tmp_path / "photos", [1, 2.5, 3])
    text = config_text(bundle=tiny_bundle, source=photos, state=tmp_path / "state")
    file = tmp_path / "agent.toml"
    file.write_text(text.replace('"onnxruntime"', f'"{engine}"'), encoding="utf-8")
    done = under_filter(repository, "bintally.py", "agent", "run", "--config", str(file), "--json")
    assert done.returncode == 0, done.stderr
    assert '"accepted": 3' in done.stdout


def test_filter_refuses_what_the_agent_never_needs(repository: Path) -> None:
    done = under_filter(repository, "-c", _FORBIDDEN)
    assert done.returncode == 0, done.stderr
    answers = dict(line.split() for line in done.stdout.splitlines())
    assert len(answers) == 6
    # setuid is in @privileged; unshare is left to RestrictNamespaces=, which this filter does not stand for.
    assert {name for name, answer in answers.items() if answer == "allowed"} <= {"unshare"}
