"""How fast is the whole agent, every count committed to disk, against a bare loop that stores nothing?

    python benchmarks/agent.py                                    the shipped bundle on rendered bins
    python benchmarks/agent.py --bundle BUNDLE --photos FOLDER    your own

The reference reads, decodes, preprocesses and infers the same files with the same engine, one after the other. The
agent does the same in its capture process and its loop, and also measures, gates, decides, writes every count to the
outbox with fsync, and, where a mosquitto binary is found, publishes all of it. With --uploads it stores and uploads the
image of every unsure visit besides. Both are timed from the first read to the last result, in turns, and the medians
are compared: `ratio` above 1 means that the agent is faster. It needs two idle cores, because the agent overlaps what
the loop does one after the other; on a busy machine the processor times tell more (start-up is included in them).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle.images import decode, read_bytes
from edge_agent.assemble import assemble
from edge_agent.capture.sources import photo_names
from edge_agent.config import (
    AgentConfig,
    BundleSection,
    CameraSection,
    MqttSection,
    RobotSection,
    StateSection,
    StopSection,
    UploadsSection,
)
from edge_agent.loading import open_counter
from edge_agent.machine import rss_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.messages import Totals
    from edge_agent.outbox.rows import Entry

_SHIPPED_BUNDLE = Path(__file__).resolve().parent.parent / "demo" / "bundle"
_IO = Path("/proc/self/io")


def main() -> None:
    """Measure, and print one JSON object as the last line."""
    options = _options()
    logging.basicConfig(level=logging.ERROR)
    section = BundleSection(path=options.bundle, engine=options.engine, threads=options.threads)
    with tempfile.TemporaryDirectory() as scratch, _broker() as port:
        source = options.photos or _rendered(Path(scratch) / "rendered", options.limit)
        names = photo_names(source)[: options.limit]
        photos = Path(scratch) / "photos"
        photos.mkdir()
        for name in names:
            (photos / name).symlink_to((source / name).resolve())
        bare, full, cpu_s = [], [], [0.0, 0.0]
        for turn in range(options.turns):
            before_s = _cpu_s()
            bare.append(_bare_loop(section, photos, names))
            between_s = _cpu_s()
            state = Path(scratch) / f"state-{turn}"
            uploads = UploadsSection(folder=state / "uploads" if options.uploads else None)
            full.append(_agent(_config(section, photos, state, port, uploads), len(names)))
            cpu_s = [cpu_s[0] + between_s - before_s, cpu_s[1] + _cpu_s() - between_s]
    reference = statistics.median(bare)
    ours = statistics.median(run.fps for run in full)
    last = full[-1]
    print(
        json.dumps(
            {
                "benchmark": "agent",
                "ratio": round(ours / reference, 3),
                "agent_fps": round(ours, 1),
                "bare_loop_fps": round(reference, 1),
                "agent_cpu_ms": round(cpu_s[1] / options.turns / len(names) * 1e3, 2),
                "bare_loop_cpu_ms": round(cpu_s[0] / options.turns / len(names) * 1e3, 2),
                "frames": len(names),
                "turns": options.turns,
                "p50_ms": last.totals["p50_ms"],
                "p99_ms": last.totals["p99_ms"],
                "unsure_share": round((last.totals["unsure"] or 0) / len(names), 3),
                "commits_per_count": round(last.commits / len(names), 3),
                "bytes_written_per_count": round(last.written_bytes / len(names)),
                "engine": last.engine,
                "threads": section.threads,
                "broker": port is not None,
                "uploads": options.uploads,
                "cores": os.cpu_count(),
                "rss_mb": round((rss_bytes() or 0) / 1e6),
                "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
            }
        )
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=_SHIPPED_BUNDLE, help="folder of a bundle")
    parser.add_argument("--photos", type=Path, help="folder of photos (default: bins are rendered)")
    parser.add_argument("--limit", type=int, default=800, help="use the first so many photos (default 800)")
    parser.add_argument("--uploads", action="store_true", help="store and upload the images of unsure visits, too")
    parser.add_argument("--turns", type=int, default=3, help="measure both so many times (default 3)")
    parser.add_argument("--engine", default="auto", help="engine of both sides (default auto)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the engine, both sides (default 1)")
    return parser.parse_args()


def _rendered(folder: Path, count: int) -> Path:
    """Render bins as photos of a camera, and name their folder."""
    from demo.dataset import write_dataset

    write_dataset(folder, count=count, seed=7, workers=os.cpu_count() or 1)
    return folder / "bin-images"


def _bare_loop(section: BundleSection, photos: Path, names: list[str]) -> float:
    """Frames per second of read -> decode -> preprocess -> infer, and nothing else."""
    counter = open_counter(section)
    try:
        started_s = time.monotonic()
        for name in names:
            counter.posteriors([decode(read_bytes(photos / name), name=name)])
        return len(names) / (time.monotonic() - started_s)
    finally:
        counter.close()


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run of the agent measured."""

    fps: float
    totals: Totals
    commits: int
    written_bytes: int
    engine: str


def _config(
    section: BundleSection, photos: Path, state: Path, port: int | None, uploads: UploadsSection
) -> AgentConfig:
    return AgentConfig(
        robot=RobotSection(site="bench", id="robot"),
        bundle=section,
        cameras=(CameraSection(source=str(photos)),),
        state=StateSection(path=state),
        mqtt=MqttSection(port=port or 1),
        uploads=uploads,
        stop=StopSection(drain_timeout_s=60 if port else 0),
    )


def _agent(config: AgentConfig, frames: int) -> _Run:
    """Run the agent, timed from the first read to the last commit."""
    first_s, last_s, accepted = float("inf"), 0.0, 0

    def on_accepted(entry: Entry) -> None:
        nonlocal first_s, last_s, accepted
        first_s = min(first_s, entry.captured_mono_s or first_s)
        last_s = time.monotonic()
        accepted += 1

    written = _written_bytes()
    agent = assemble(config, on_accepted=on_accepted)
    engine = agent.parts.report.engine_name
    totals = agent.run()
    if accepted != frames:
        raise SystemExit(f"{accepted} counts for {frames} photos")
    commits = agent.parts.outbox.numbers().commits
    return _Run(frames / (last_s - first_s), totals, commits, _written_bytes() - written, engine)


def _cpu_s() -> float:
    """Seconds of processor time of this process and of the children that have ended, start-up included."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _written_bytes() -> int:
    try:
        fields = dict(line.split(": ") for line in _IO.read_text(encoding="ascii").splitlines())
    except OSError:
        return 0
    return int(fields["write_bytes"])


@contextmanager
def _broker() -> Iterator[int | None]:
    """A mosquitto of our own on a free port, or None where there is no such binary."""
    binary = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if binary is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    process = subprocess.Popen([binary, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main()
