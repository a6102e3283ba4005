"""A certificate authority for tests: the one that is shipped for sites."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "mosquitto" / "certificates.sh"


class Authority:
    """An authority of its own in a folder; skips where openssl is missing.

    Args:
        folder: For its certificates.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl")
        self.folder = folder
        self.run("init")

    def run(self, *words: str, days: int = 365) -> None:
        command = ["/bin/sh", str(_SCRIPT), "--dir", str(self.folder), "--days", str(days), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
