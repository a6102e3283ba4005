"""A recalibration killed at every step: old calibration or new, never between, and one result. Prints one JSON object.

    python benchmarks/kills.py every                   SIGKILL at every rename and every fsync of a job (needs strace)
    python benchmarks/kills.py random [--tries 100]    SIGKILL after a random time, until the job is over

Three jobs are killed: one that activates, one that is reverted after its watch, one that is refused. After each kill
the store must verify and hold the old or the new bundle; the same job id then goes on, must print exactly one final
line, and the store must hold what that line says. The main figure is `ratio`: broken / kills, 0 is good.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle.store import Store
from calibration.assess import Wish
from calibration.refit import Paths, refit_confidence
from tests.calibration.scenes import write_records, write_table
from tests.simulators.bundle_factory import make_bundle

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
CALLS = ("rename", "renameat", "renameat2", "fsync", "fdatasync")
KILLED = (-9, 137)
LONGEST_S = 6.0
TIMEOUT_S = 120


def main() -> None:
    """Run one part and print its object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("every")
    parts.add_parser("random").add_argument("--tries", type=int, default=100)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bintally-kills-"))
    robots = make_robots(folder)
    found = every(robots) if arguments.part == "every" else at_random(robots, arguments.tries)
    shutil.rmtree(folder)
    print(json.dumps({"part": arguments.part, **found, "machine": platform.machine()}))


def say(words: str) -> None:
    """Tell a person what happens, on stderr."""
    print(words, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Robot:
    """A store, made anew for every kill, and visits that lead to one end."""

    name: str
    pristine: Path
    root: Path
    visits: Path
    options: tuple[str, ...]

    def renew(self) -> str:
        """A fresh copy of the store; the digest of its bundle."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.pristine, self.root, symlinks=True)
        return Store(self.root).current().digest

    def command(self, *before: str) -> list[str]:
        """The job as a process."""
        job = [sys.executable, "-m", "bintally", "recalibrate", "--store", str(self.root), "--visits", str(self.visits)]
        return [*before, *job, "--job-id", "job", "--json", *self.options]

    def run(self, *before: str, timeout_s: float = TIMEOUT_S) -> tuple[int, list[dict[str, Any]]]:
        """Carry it out; its exit code and its final lines."""
        child = subprocess.Popen(self.command(*before), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            out, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
        return child.returncode, [json.loads(line) for line in out.splitlines() if '"final": true' in line]

    def problem_after_kill(self, old: str) -> str:
        """What is wrong with the store now, or nothing. Reading the current bundle verifies every file of it."""
        record = self.root / "recalibrations" / "job" / "job.json"
        content = json.loads(record.read_text()) if record.exists() else {}
        now = Store(self.root).current().digest
        return "" if now in {old, (content.get("after") or {}).get("digest")} else f"holds {now[:12]}"

    def problem_at_the_end(self, old: str, finals: list[dict[str, Any]]) -> str:
        """What is wrong with the result, or nothing."""
        if len(finals) != 1:
            return f"{len(finals)} results"
        expected = finals[0]["after"]["digest"] if finals[0]["state"] == "activated" else old
        return "" if Store(self.root).current().digest == expected else f"{finals[0]['state']}, but another bundle"


def make_robots(folder: Path) -> list[Robot]:
    """Stores with a calibrated bundle, and visits that are fine, that change during the watch, that are black."""
    table = write_table(folder / "table", 300, 1, noise=0.3)
    paths = Paths(make_bundle(folder / "tiny"), table, folder / "bundle")
    refit_confidence(paths, Wish(risk=0.1), now=NOW)
    store = Store(folder / "pristine")
    store.activate(store.install(paths.out).digest)
    fine = write_records(folder / "fine", 180, 5, noise=0.3)
    change = write_records(folder / "change", 160, 5, noise=0.3)
    write_records(change, 40, 6, noise=0.3, start=160, label=lambda count: (count + 1) % 6)
    black = write_records(folder / "black", 120, 7, change=lambda picture: picture * 0)
    visits = {"activated": fine, "reverted": change, "refused": black}
    options = ("--watch-visits", "40", "--why", "kills")
    return [Robot(name, folder / "pristine", folder / "store", where, options) for name, where in visits.items()]


def every(robots: list[Robot]) -> dict[str, Any]:
    """Kill at the n-th rename or fsync, for every n that a whole job has."""
    kills, broken, by_robot = 0, [], {}
    for robot in robots:
        robot.renew()
        trace = robot.root.with_name("trace")
        code, finals = robot.run("strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={','.join(CALLS)}")
        state = finals[0]["state"] if finals else f"exit code {code}"
        if state != robot.name:
            sys.exit(f"the job for {robot.name} ended as {state}")
        text = trace.read_text()
        points = [(call, number) for call in CALLS for number in range(1, text.count(f" {call}(") + 1)]
        by_robot[robot.name] = len(points)
        for call, number in points:
            old = robot.renew()
            inject = f"inject={call}:signal=SIGKILL:when={number}"
            code, _ = robot.run("strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={call}", "-e", inject)
            problem = "" if code in KILLED else f"exit code {code}: not killed"
            problem = problem or robot.problem_after_kill(old)
            _, finals = robot.run()
            problem = problem or robot.problem_at_the_end(old, finals)
            kills += 1
            if problem:
                broken.append(f"{robot.name}, {call} {number}: {problem}")
                say(broken[-1])
        say(f"{robot.name}: killed at {len(points)} places, {len(broken)} broken so far")
    return {"ratio": len(broken) / kills, "kills": kills, "places": by_robot, "broken": broken}


def at_random(robots: list[Robot], tries: int) -> dict[str, Any]:
    """Kill after a random time, again and again, until the job is over."""
    rng, kills, jobs = random.Random(1), 0, 0
    broken: list[str] = []
    results: dict[str, int] = {}
    while kills < tries:
        robot = robots[jobs % len(robots)]
        jobs += 1
        old = robot.renew()
        code, finals = robot.run(timeout_s=rng.uniform(0.5, LONGEST_S))
        while code in KILLED:
            kills += 1
            broken += [problem for problem in [robot.problem_after_kill(old)] if problem]
            code, finals = robot.run(timeout_s=rng.uniform(0.5, LONGEST_S))
        broken += [problem for problem in [robot.problem_at_the_end(old, finals)] if problem]
        ended = finals[0]["state"] if finals else "none"
        results[ended] = results.get(ended, 0) + 1
    return {"ratio": len(broken) / kills, "kills": kills, "jobs": jobs, "results": results, "broken": broken}


if __name__ == "__main__":
    main()
