"""The agent for a long time, with the broker going away now and then: memory, descriptors and disk must stay flat.

    python -m tests.faults.soak --minutes 60 --rate 8 --photos FOLDER

Counts the same photos again and again at a fixed rate (8 a second is eight hours of one a second in one hour),
uploads unsure images to a folder, restarts the broker every ten minutes, and samples the agent and its capture process
every ten seconds. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from tests.edge_agent.running import AgentProcess, config_text
from tests.faults.kills import read_outbox
from tests.faults.world import DeliveryLog, KeepingBroker

_WARM_UP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the agent."""

    at_s: float
    rss_kb: int
    capture_rss_kb: int
    descriptors: int
    threads: int
    state_bytes: int
    accepted: int


def look(process: AgentProcess, state: Path, since_s: float) -> Sample:
    """Read the agent's numbers from the kernel."""
    pid = process.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return Sample(
        at_s=round(time.monotonic() - since_s, 1),
        rss_kb=_status(pid, "VmRSS"),
        capture_rss_kb=sum(_status(int(child), "VmRSS") for child in children),
        descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        threads=_status(pid, "Threads"),
        state_bytes=folder_bytes(state),
        accepted=len(process.counts),
    )


def _status(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0


def folder_bytes(folder: Path) -> int:
    """Bytes of every file below; files may come and go meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def slope_per_hour(samples: list[Sample], name: str) -> float:
    """Least-squares slope of a number, without the warm-up."""
    late = samples[int(len(samples) * _WARM_UP_SHARE) :]
    if len(late) < 3:
        return 0.0
    times = np.array([sample.at_s for sample in late]) / 3600
    return float(np.polyfit(times, np.array([getattr(sample, name) for sample in late], np.float64), 1)[0])


def soak(
    folder: Path, bundle: Path, photos: Path, *, seconds: float, rate: float, restart_s: float
) -> dict[str, object]:
    """Run the agent and look at it; the result of `main`."""
    rest = f'[uploads]\nfolder = "{folder / "up"}"\n'
    broker = KeepingBroker(folder / "broker")
    state = folder / "state"
    camera = f"repeat = true\npause_s = {1 / rate:g}"
    samples: list[Sample] = []
    with broker, DeliveryLog(broker.port, folder / "delivered.jsonl") as log:
        text = config_text(bundle=bundle, source=photos, state=state, port=broker.port, camera=camera, rest=rest)
        agent = AgentProcess.start(folder, text)
        began_s = time.monotonic()
        next_restart_s = began_s + restart_s
        while time.monotonic() < began_s + seconds and agent.process.poll() is None:
            time.sleep(min(10.0, seconds / 20))
            samples.append(look(agent, state, began_s))
            sys.stderr.write(json.dumps(asdict(samples[-1])) + "\n")
            if time.monotonic() > next_restart_s:
                next_restart_s += restart_s
                broker.restart()
        code = agent.terminate()
        accepted = {count["event_id"] for count in agent.counts}
        log.wait_for(accepted)
        delivered = log.event_ids()
    return _summary(samples, accepted, delivered, code, read_outbox(state).counts) | {"totals": agent.totals}


def _summary(
    samples: list[Sample], accepted: set[str], delivered: list[str], code: int, queued: set[str]
) -> dict[str, object]:
    late = samples[int(len(samples) * _WARM_UP_SHARE) :]
    return {
        "exit_code": code,
        "seconds": samples[-1].at_s,
        "accepted": len(accepted),
        "queued": len(queued),
        "lost": len(accepted - set(delivered) - queued),
        "repeats": len(delivered) - len(set(delivered)),
        "rss_kb_after_warm_up": late[0].rss_kb,
        "rss_kb_last": late[-1].rss_kb,
        "rss_kb_highest": max(sample.rss_kb for sample in samples),
        "rss_slope_kb_per_hour": round(slope_per_hour(samples, "rss_kb"), 1),
        "capture_rss_slope_kb_per_hour": round(slope_per_hour(samples, "capture_rss_kb"), 1),
        "descriptors": [min(s.descriptors for s in late), max(s.descriptors for s in late)],
        "threads": [min(s.threads for s in late), max(s.threads for s in late)],
        "state_bytes": [min(s.state_bytes for s in late), max(s.state_bytes for s in late)],
        "state_slope_bytes_per_hour": round(slope_per_hour(samples, "state_bytes")),
    }


@click.command()
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--rate", default=8.0, show_default=True, help="Photos a second.")
@click.option("--bundle", type=click.Path(path_type=Path, exists=True), default=Path("demo/bundle"), show_default=True)
@click.option("--photos", type=click.Path(path_type=Path, exists=True), required=True, help="A folder of photos.")
@click.option("--restart-s", default=600.0, show_default=True, help="The broker is restarted every so many seconds.")
def main(minutes: float, rate: float, bundle: Path, photos: Path, restart_s: float) -> None:
    """Soak the agent and print one JSON object."""
    with tempfile.TemporaryDirectory() as folder:
        found = soak(
            Path(folder), bundle.resolve(), photos.resolve(), seconds=minutes * 60, rate=rate, restart_s=restart_s
        )
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
