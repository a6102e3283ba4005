"""Faults mixed at random from a seed, against the real agent, for as long as you like.

    python -m tests.faults.mixed --minutes 10 --seed 1

The agent counts photos and uploads the unsure ones to a real object store; between it and the store, and between it
and a real mosquitto, lie networks that fall ill (`tests.faults.network`). Every few seconds one fault is drawn: the
agent is killed, stopped for a while or asked to end; its capture process is killed or stopped; broker or store are
killed and started again; a network refuses, swallows, slows down or answers with a login page; the engine fails for a
moment or hangs; the agent runs out of descriptors. An agent that has ended is started again, as systemd does. At the
end all is well again and the agent delivers what it has.

What was accepted is what the agent printed after its commit; what was delivered is what the broker acknowledged, read
on the wire behind the network. The last line is one JSON object; `violations` must be empty.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tests.edge_agent.running import AgentProcess, config_text, write_photos
from tests.faults.broker_kills import Wire
from tests.faults.kills import read_outbox
from tests.faults.network import Network
from tests.faults.soak import _status, folder_bytes
from tests.faults.world import KeepingBroker
from tests.simulators.bundle_factory import make_bundle
from tests.simulators.object_store import MotoStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.network import Mode

_PHOTOS = [n % 6 + 0.5 * (n % 10 == 0) for n in range(60)]
_MAX_BYTES = 64 << 20
_MAX_RSS_KB = 300_000
_EXPECTED_CODES = {0, 1, 70, -signal.SIGKILL, -signal.SIGTERM}
"""In order, hung or stopped for longer than the guard waits, the engine, killed, asked to end before it had begun."""


class Mixed:
    """The world, and the faults that can be drawn in it."""

    def __init__(self, folder: Path, seed: int, world: ExitStack) -> None:
        self.rng = random.Random(seed)
        self.state, self.control = folder / "state", folder / "engine"
        self.drawn: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()
        self.lives: list[AgentProcess] = []
        self.rows: set[str] = set()
        self.violations: list[str] = []
        self.highest = {"rss_kb": 0, "state_bytes": 0}
        self.broker = world.enter_context(KeepingBroker(folder / "broker"))
        self.store = world.enter_context(MotoStore())
        self.wire = world.enter_context(Wire(self.broker.port))
        self.networks = [world.enter_context(Network(port)) for port in (self.wire.port, self.store.port)]
        self._folder = folder
        url = f"http://127.0.0.1:{self.networks[1].port}"
        quick = "connect_timeout_s = 1\nread_timeout_s = 2\nretry_max_s = 1"
        rest = f'[s3]\nbucket = "{self.store.bucket}"\nendpoint_url = "{url}"\n{quick}\n[telemetry]\ninterval_s = 1\n'
        self._text = (
            config_text(
                bundle=make_bundle(folder / "tiny"),
                source=write_photos(folder / "photos", _PHOTOS),
                state=self.state,
                port=self.networks[0].port,
                camera="repeat = true\npause_s = 0.05",
                rest=rest,
            )
            .replace("[mqtt]\n", "[mqtt]\nkeepalive_s = 5\nack_timeout_s = 3\n")
            .replace("[state]\n", f"[state]\nmax_bytes = {_MAX_BYTES}\n")
        )

    @property
    def agent(self) -> AgentProcess:
        """The one that runs."""
        return self.lives[-1]

    def start(self) -> None:
        """Start an agent, with a sound engine."""
        self.control.write_text("healthy", encoding="utf-8")
        command = [sys.executable, "-m", "tests.faults.sick_agent", str(self.control)]
        self.lives.append(AgentProcess.start(self._folder, self._text, command, SICK_PATIENCE_S="12"))

    def faults(self) -> dict[str, Callable[[], None]]:
        """By name; each ends with its cause gone."""
        return {
            "kill": self.agent.process.kill,
            "sigterm": self.agent.process.terminate,
            "stop": lambda: self._stop(self.agent.process.pid),
            "capture killed": self._kill_capture,
            "capture stopped": lambda: self._stop(*self._children()),
            "broker killed": self._kill_broker,
            "store away": self._restart_store,
            "engine": lambda: self._engine(self.rng.choice(["half", "raise", "memory", "nan", "constant"]), 2.0),
            "hang": lambda: self._engine("hang", 20.0),
            "no descriptors": self._starve,
            **{f"broker {mode}": lambda mode=mode: self._network(0, mode) for mode in _MODES},  # type: ignore[misc]  # binds
            **{f"store {mode}": lambda mode=mode: self._network(1, mode) for mode in _MODES},  # type: ignore[misc]  # binds
        }

    def draw(self) -> None:
        """One fault, then a look at the agent."""
        faults = self.faults()
        name = self.rng.choice(sorted(faults))
        self.drawn[name] += 1
        sys.stderr.write(f"{name}\n")
        with suppress(ProcessLookupError):  # it ended by itself meanwhile
            faults[name]()
        time.sleep(self.rng.uniform(0.5, 3.0))
        self.look()
        if self.agent.ended:
            self._bury()
            self.start()

    def look(self) -> None:
        """Hold the bounds."""
        with suppress(FileNotFoundError, ProcessLookupError):
            rss_kb = _status(self.agent.process.pid, "VmRSS")
            self.highest["rss_kb"] = max(self.highest["rss_kb"], rss_kb)
        self.highest["state_bytes"] = max(self.highest["state_bytes"], folder_bytes(self.state))

    def _bury(self) -> None:
        code = self.agent.wait()
        self.codes[code] += 1
        self.rows |= read_outbox(self.state).counts
        if code not in _EXPECTED_CODES:
            self.violations.append(f"ended with {code}: {''.join(self.agent.stderr[-5:])}")

    def _stop(self, *pids: int) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(self.rng.uniform(1.0, 9.0))
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    def _children(self) -> list[int]:
        pid = self.agent.process.pid
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return [int(word) for word in words]

    def _kill_capture(self) -> None:
        for child in self._children():
            os.kill(child, signal.SIGKILL)

    def _kill_broker(self) -> None:
        self.broker.kill()
        time.sleep(self.rng.uniform(0.1, 4.0))
        self.broker.start()

    def _restart_store(self) -> None:
        self.store.stop()
        time.sleep(self.rng.uniform(0.1, 4.0))
        self.store.start()

    def _engine(self, order: str, seconds: float) -> None:
        self.control.write_text(order, encoding="utf-8")
        time.sleep(self.rng.uniform(0.1, seconds))
        self.control.write_text("healthy", encoding="utf-8")

    def _starve(self) -> None:
        pid = self.agent.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
        time.sleep(self.rng.uniform(0.5, 3.0))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))

    def _network(self, which: int, mode: Mode) -> None:
        self.networks[which].mode = mode
        time.sleep(self.rng.uniform(0.5, 8.0))
        self.networks[which].mode = "well"

    def finish(self) -> None:
        """Let a last agent, whose photos end, deliver everything."""
        self.agent.process.terminate()
        self._bury()
        self._text = self._text.replace("repeat = true\n", "").replace("drain_timeout_s = 30", "drain_timeout_s = 120")
        self.start()
        self.agent.wait(300)
        code = self.agent.process.returncode
        self.codes[code] += 1
        if code != 0:
            self.violations.append(f"the last life ended with {code}: {''.join(self.agent.stderr[-5:])}")

    def verdict(self) -> dict[str, object]:
        """Hold what was accepted against what became of it."""
        printed = [count for life in self.lives for count in life.counts]
        accepted = {count["event_id"] for count in printed} | self.rows
        acknowledged, left = set(self.wire.acknowledged), read_outbox(self.state)
        kept = {key for key in self.store.keys() if key.endswith(".jpg")}  # noqa: SIM118 - a method
        wanted = {count["image_key"] for count in printed} - {None}
        wrong = [c for c in printed if c["confident"] and c["count"] != _PHOTOS[int(c["bin_id"])]]
        found = {
            "lost": len(accepted - acknowledged - left.counts),
            "wrong_and_confident": len(wrong),
            "images_unaccounted": max(0, len(wanted - kept) - int(sum(left.drops.values()))),
            "queued_at_the_end": len(left.counts),
            "rss_above_bound": max(0, self.highest["rss_kb"] - _MAX_RSS_KB),
            "state_above_bound": max(0, self.highest["state_bytes"] - _MAX_BYTES),
        }
        self.violations += [f"{name}: {number}" for name, number in found.items() if number]
        return {
            "accepted": len(accepted),
            "acknowledged": len(acknowledged),
            "acknowledged_twice": len(self.wire.acknowledged) - len(acknowledged),
            "images": len(kept),
            "drops": left.drops,
            **found,
            "highest": self.highest,
            "exit_codes": dict(self.codes),
            "faults": sum(self.drawn.values()),
            "drawn": dict(self.drawn),
            "violations": self.violations,
        }


_MODES: tuple[Mode, ...] = ("refuse", "hole", "mute", "slow", "portal")


def mixed(folder: Path, *, seconds: float, seed: int) -> dict[str, object]:
    """Draw faults for so long; the result of `main`."""
    with ExitStack() as world:
        run = Mixed(folder, seed, world)
        run.start()
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            run.draw()
        run.finish()
        return {"seconds": seconds, "seed": seed, **run.verdict()}


@click.command()
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(minutes: float, seed: int) -> None:
    """Mix faults under a counting agent and print one JSON object; exit code 1 when a promise was broken."""
    with tempfile.TemporaryDirectory() as folder:
        found = mixed(Path(folder), seconds=minutes * 60, seed=seed)
    click.echo(json.dumps(found))
    sys.exit(1 if found["violations"] else 0)


if __name__ == "__main__":
    main()
