"""A small disk of its own for a program, which may fill it: `unshare -rm` and a tmpfs, no root needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def on_small_disk(point: Path, program: str, options: str = "size=12m") -> str:
    """Run a Python program with a tmpfs mounted on `point`, which it is given; skip where that is not allowed.

    Returns:
        What it printed.
    """
    mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"', str(point)]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], check=False).returncode:
        pytest.skip("this user may not mount a small disk (unshare -rm)")
    done = subprocess.run(
        [*mount, sys.executable, "-c", program, str(point)], capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fill(folder: Path, name: str = "filler") -> Path:
    """Take all the room that is left, as somebody else's file; removing it gives the room back."""
    file = folder / name
    handle = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(handle, bytes(4096))
    except OSError:
        return file
    finally:
        os.close(handle)
