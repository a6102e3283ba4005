"""The long form of the download's fault tests: 50 kills among all faults, and a disk that is really full."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.train.data.bucket_simulator import BucketSimulator
from tests.train.data.sources import AbidSource
from tests.train.data.test_download import command, kill_at_random_moments, whole_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    source = AbidSource(tmp_path_factory.mktemp("bucket"))
    for number in range(1, 601):
        source.add(f"{number:05d}", number % 7)
    return source.objects()


@pytest.fixture
def server(objects: dict[str, bytes]) -> Iterator[BucketSimulator]:
    with BucketSimulator(objects, slow_s=0.02) as simulator:
        yield simulator


def test_download_killed_fifty_times_is_never_half(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path, repository: Path
) -> None:
    server.random_faults = (0.6, ("slow", "slow", "slow", "503", "short", "reset", "corrupt"))
    kill_at_random_moments_then_calm(server, objects, tmp_path / "out", repository)


def kill_at_random_moments_then_calm(
    server: BucketSimulator, objects: dict[str, bytes], out: Path, repository: Path
) -> None:
    kills = 50
    for seed in range(kills):
        # Each round kills once; the last round ends in calm, where every request must count.
        if seed == kills - 1:
            server.random_faults = (0.0, ())
            kill_at_random_moments(server, objects, out, repository, kills=1, seed=seed)
            return
        process = subprocess.Popen(
            command(server, out), cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_for_files(out, process, more=seed % 12)
        process.kill()
        process.wait()
        whole_files(out, objects)


def _wait_for_files(out: Path, process: subprocess.Popen[bytes], *, more: int) -> None:
    import time

    goal = len(list(out.glob("*/*.jp*"))) + more
    deadline = time.monotonic() + 120
    while process.poll() is None and len(list(out.glob("*/*.jp*"))) < goal and time.monotonic() < deadline:
        time.sleep(0.001)


def test_download_onto_a_full_disk_stops_and_goes_on(
    server: BucketSimulator, objects: dict[str, bytes], tmp_path: Path, repository: Path
) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not on this machine: no private file system of 1 MB")
    disk = tmp_path / "disk"
    disk.mkdir()
    words = " ".join(command(server, disk))
    # A private tmpfs of 1 MB; what landed is copied out before the name space ends.
    script = (
        f"mount -t tmpfs -o size=1m none {disk} && {{ {words}; echo $? > {tmp_path}/rc; "
        f"cp -r {disk} {tmp_path}/kept; }}"
    )
    made = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=repository, capture_output=True, text=True, check=False
    )
    if not (tmp_path / "rc").exists():
        pytest.skip(f"a private tmpfs cannot be mounted here: {made.stderr.strip()}")
    assert (tmp_path / "rc").read_text().strip() == "75"
    assert "No space left on device" in made.stderr
    there = whole_files(tmp_path / "kept", objects)
    assert 0 < len(there) < len(objects)
    assert not list((tmp_path / "kept").rglob("*.part"))
    subprocess.run(command(server, tmp_path / "kept"), cwd=repository, capture_output=True, check=True)
    assert whole_files(tmp_path / "kept", objects).keys() == objects.keys()
