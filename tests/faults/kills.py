"""SIGKILL under load, again and again: every accepted count must be delivered, still queued, or counted as dropped.

    python -m tests.faults.kills --kills 1000 --seed 1

The real agent, a real mosquitto that keeps its messages, `mosquitto_sub` as the consumer. Three witnesses stand outside
the agent:
- what it printed after a commit (`--json`), read from the pipe that outlives it,
- the rows that lie in its outbox after each kill, read from a copy of the file,
- the order of the photos: between two photos of one life whose counts arrived, no photo may be missing.
Accepted is the union of the first two. The last line is one JSON object; `lost` and `holes` must be 0.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.faults.nursery import ForkedAgent, Nursery
from tests.faults.world import DeliveryLog, KeepingBroker
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

_PHOTOS = 50
_EARLY_SHARE = 0.1
_MEAN_LIFE_S = 1.0
_COLD_EVERY = 20
"""Every so many starts, the agent is a fresh process; in between, a fork that has its imports: see `nursery`."""
_START_LIMIT_S = 60.0


@dataclass(slots=True)
class Witness:
    """What was seen from outside.

    Attributes:
        lives: Event ids per life of the agent, as printed.
        rows: Event ids of counts that lay in the outbox after a kill.
        firsts_s: Start of a fresh process to its first accepted count.
    """

    lives: list[list[str]] = field(default_factory=list)
    rows: set[str] = field(default_factory=set)
    firsts_s: list[float] = field(default_factory=list)

    @property
    def accepted(self) -> set[str]:
        """Everything that some witness saw accepted."""
        return self.rows.union(*self.lives)


@dataclass(frozen=True, slots=True)
class Stored:
    """What an outbox file holds: event ids of counts, and the numbers of drops."""

    counts: set[str]
    drops: dict[str, float]


def read_outbox(state: Path) -> Stored:
    """Read a copy of the outbox, so that the agent's own file stays as the kill left it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("outbox.db", "outbox.db-wal"):
            if (state / name).exists():
                shutil.copy(state / name, folder)
        try:
            with closing(sqlite3.connect(Path(folder) / "outbox.db")) as connection:
                rows = connection.execute("SELECT event_id FROM message WHERE kind = 'count'").fetchall()
                tallies = connection.execute("SELECT name, value FROM tally").fetchall()
        except sqlite3.OperationalError:  # killed before the tables were there
            return Stored(set(), {})
    return Stored({row[0] for row in rows}, {name: value for name, value in tallies if name != "uptime_s"})


def live_once(agent: AgentProcess | ForkedAgent, state: Path, rng: random.Random, witness: Witness) -> float | None:
    """Kill an agent at a random moment, and note what it left behind.

    Returns:
        Seconds from its start to its first accepted count, None when it was killed before.
    """
    began_s, first_s = time.monotonic(), None
    if rng.random() < _EARLY_SHARE:
        time.sleep(rng.uniform(0, 1.5))  # while it starts
    else:
        while not agent.counts and not agent.ended and time.monotonic() < began_s + _START_LIMIT_S:
            time.sleep(0.01)
        first_s = time.monotonic() - began_s
        time.sleep(rng.uniform(0, 2 * _MEAN_LIFE_S))
    assert not agent.ended, agent.stderr
    agent.kill()
    witness.lives.append([count["event_id"] for count in agent.counts])
    witness.rows |= read_outbox(state).counts
    return first_s


def holes(counts: Sequence[tuple[str, str]], photos: int) -> int:
    """Photos that are missing between their neighbours.

    Args:
        counts: Event id, and bin id, which is the photo's number, of what was delivered, in order; repeats count once.
        photos: In the folder; after the last comes the first.

    Returns:
        How many; a life that was killed begins again at the first photo, which is no hole.
    """
    missing, before = 0, -1
    for _, bin_id in dict.fromkeys(counts):
        number = int(bin_id)
        if number not in (0, (before + 1) % photos):
            missing += (number - before - 1) % photos
        before = number
    return missing


def series(folder: Path, *, kills: int, seed: int) -> dict[str, object]:
    """Kill the agent so many times, let it end in order once, and count."""
    rng = random.Random(seed)
    photos = write_photos(folder / "photos", [n % 6 + 0.5 * (n % 5 == 0) for n in range(_PHOTOS)])
    bundle = make_bundle(folder / "tiny")
    state, witness = folder / "state", Witness()
    began_s = time.monotonic()
    broker = KeepingBroker(folder / "broker")
    with broker, DeliveryLog(broker.port, folder / "delivered.jsonl") as log:
        rest = f'[uploads]\nfolder = "{folder / "up"}"\n'
        text = config_text(
            bundle=bundle, source=photos, state=state, port=broker.port, camera="repeat = true", rest=rest
        )
        with Nursery() as nursery:
            for turn in range(kills):
                cold = turn % _COLD_EVERY == 0
                agent = AgentProcess.start(folder, text) if cold else ForkedAgent(nursery, folder, text)
                first_s = live_once(agent, state, rng, witness)
                if cold and first_s is not None:
                    witness.firsts_s.append(first_s)
                if (turn + 1) % 25 == 0:
                    sys.stderr.write(f"{turn + 1} kills, {len(log.read())} deliveries\n")
        final = AgentProcess.start(folder, text.replace("repeat = true", ""))
        code = final.wait(300)
        witness.lives.append([count["event_id"] for count in final.counts])
        log.wait_for(witness.accepted)
        arrived = log.read()
    return {
        "kills": kills,
        "seed": seed,
        "seconds": round(time.monotonic() - began_s, 1),
        "last_exit_code": code,
    } | judge(witness, [(count["event_id"], count["bin_id"]) for count in arrived], read_outbox(state))


def judge(witness: Witness, arrived: list[tuple[str, str]], left: Stored) -> dict[str, object]:
    """Hold what was accepted against what became of it."""
    delivered = {event_id for event_id, _ in arrived}
    dropped = sum(left.drops.values())
    missing = witness.accepted - delivered - left.counts
    firsts_s = sorted(witness.firsts_s)
    return {
        "accepted": len(witness.accepted),
        "accepted_printed": sum(map(len, witness.lives)),
        "deliveries": len(arrived),
        "delivered": len(delivered),
        "queued": len(left.counts),
        "dropped_and_counted": int(dropped),
        "lost": max(0, len(missing) - int(dropped)),
        "holes": holes(arrived, _PHOTOS),
        "repeats": len(arrived) - len(delivered),
        "repeats_per_kill": round((len(arrived) - len(delivered)) / max(1, len(witness.lives) - 1), 2),
        "repeats_percent": round(100 * (len(arrived) - len(delivered)) / max(1, len(arrived)), 3),
        "first_count_p50_s": round(firsts_s[len(firsts_s) // 2], 2) if firsts_s else None,
        "first_count_p99_s": round(firsts_s[int(len(firsts_s) * 0.99)], 2) if firsts_s else None,
    }


@click.command()
@click.option("--kills", default=40, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Kept for a look afterwards; default: a temporary one.")
def main(kills: int, seed: int, folder: Path | None) -> None:
    """Kill the agent under load and print one JSON object; exit code 1 when a count was lost."""
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        found = series(place, kills=kills, seed=seed)
    click.echo(json.dumps(found))
    sys.exit(1 if found["lost"] or found["holes"] or found["last_exit_code"] else 0)


if __name__ == "__main__":
    main()
