"""A recalibration killed at every step: old calibration or new, never between, and one result. Prints one JSON object.

    python benchmarks/kills.py every                   SIGKILL before every change of the disk that a job makes
    python benchmarks/kills.py random [--tries 100]    SIGKILL after a random time, until the job is over
    python benchmarks/kills.py strace                  as `every`, at every rename and fsync system call (slow)

Three jobs are killed: one that activates, one that is reverted after its watch, one that is refused. After each kill
the store must verify and hold the old or the new bundle; the same job id then goes on, must print exactly one final
line, and the store must hold what that line says. The main figure is `ratio`: broken / kills, 0 is good.

Every job is a process of its own, forked from this one after the imports: it saves a second each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import bintally
from bundle.store import Store
from calibration.assess import Wish
from calibration.job import cli, run  # noqa: F401 - imported before the forks
from calibration.refit import Paths, refit_confidence
from tests.calibration.scenes import write_records, write_table
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import HasFileno

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile"})
CALLS = ("rename", "fsync")
KILLED = frozenset({-9, 137})
LONGEST_S = 3.0
OPTIONS = ("--engine", "onnxruntime", "--min-visits", "40", "--watch-visits", "20", "--risk", "0.3", "--why", "kills")


def main() -> None:
    """Run one part and print its object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("every")
    parts.add_parser("strace")
    parts.add_parser("random").add_argument("--tries", type=int, default=100)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bintally-kills-"))
    robots = make_robots(folder)
    if arguments.part == "random":
        found = at_random(robots, arguments.tries)
    else:
        found = at_every(robots, by_hook if arguments.part == "every" else by_strace)
    shutil.rmtree(folder)
    print(json.dumps({"part": arguments.part, **found, "machine": platform.machine()}))


def say(words: str) -> None:
    """Tell a person what happens, on stderr."""
    print(words, file=sys.stderr, flush=True)


def forked(work: Callable[[], None], *, timeout_s: float = 300.0) -> int:
    """Do work in a process of its own; its exit code, or -9 when it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except SystemExit as exc:
            sys.stdout.flush()
            os._exit(exc.code if isinstance(exc.code, int) else 1)
        os._exit(0)
    deadline = time.monotonic() + timeout_s
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


@dataclass(frozen=True, slots=True)
class Robot:
    """A store, made anew for every job, and visits that lead to one end."""

    ends: str
    pristine: Path
    root: Path
    visits: Path

    def renew(self) -> str:
        """A fresh copy of the store; the digest of its bundle."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.pristine, self.root, symlinks=True)
        return Store(self.root).current().digest

    def arguments(self) -> list[str]:
        """What the job is called with."""
        where = ["--store", str(self.root), "--visits", str(self.visits), "--job-id", "job", "--json"]
        return ["bintally", "recalibrate", *where, *OPTIONS]

    def job(self, before: Callable[[], None] = lambda: None, timeout_s: float = 300.0) -> tuple[int, list[Any]]:
        """Carry it out; its exit code and its final lines."""
        out = self.root.with_name("stdout")

        def work() -> None:
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
            sys.argv = self.arguments()
            before()
            bintally.main()

        code = forked(work, timeout_s=timeout_s)
        return code, [json.loads(line) for line in out.read_text().splitlines() if '"final": true' in line]

    def problem_after_kill(self, old: str) -> str:
        """What is wrong with the store now, or nothing. Reading the current bundle verifies every file of it."""
        record = self.root / "recalibrations" / "job" / "job.json"
        content = json.loads(record.read_text()) if record.exists() else {}
        now = Store(self.root).current().digest
        return "" if now in {old, (content.get("after") or {}).get("digest")} else f"holds {now[:12]}"

    def problem_at_the_end(self, old: str, finals: list[Any]) -> str:
        """What is wrong with the result, or nothing."""
        if len(finals) != 1:
            return f"{len(finals)} results"
        expected = finals[0]["after"]["digest"] if finals[0]["state"] == "activated" else old
        return "" if Store(self.root).current().digest == expected else f"{finals[0]['state']}, but another bundle"


def make_robots(folder: Path) -> list[Robot]:
    """Stores with a calibrated bundle, and visits that are fine, that change during the watch, that are black."""

    def work() -> None:
        table = write_table(folder / "table", 300, 1, noise=0.3)
        paths = Paths(make_bundle(folder / "tiny"), table, folder / "bundle")
        refit_confidence(paths, Wish(risk=0.1), now=NOW)
        store = Store(folder / "pristine")
        store.activate(store.install(paths.out).digest)

    if forked(work):  # in a child, so that no thread of a runtime is alive when jobs are forked
        sys.exit("the robots could not be made")
    fine = write_records(folder / "fine", 80, 5, noise=0.3)
    change = write_records(folder / "change", 60, 5, noise=0.3)
    write_records(change, 20, 6, noise=0.3, start=60, label=lambda count: (count + 1) % 6)
    black = write_records(folder / "black", 60, 7, change=lambda picture: picture * 0)
    visits = {"activated": fine, "reverted": change, "refused": black}
    return [Robot(ends, folder / "pristine", folder / "store", where) for ends, where in visits.items()]


def by_hook(robot: Robot, at: int) -> tuple[int, list[Any], int]:
    """Kill before the change number `at`; exit code, final lines, and changes counted when none was that number."""
    told = robot.root.with_name("changes")
    told.write_text("0")
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
        if not at:
            told.write_text(str(seen))

    def watch() -> None:
        sync = os.fsync

        def fsync(fd: int | HasFileno) -> None:
            count()
            sync(fd)

        os.fsync = fsync
        root = str(robot.root)
        sys.addaudithook(lambda event, details: count() if event in CHANGES and root in str(details) else None)

    code, finals = robot.job(watch)
    return code, finals, int(told.read_text())


def by_strace(robot: Robot, at: int) -> tuple[int, list[Any], int]:
    """The same by strace: all renames first, then all fsyncs."""
    trace = robot.root.with_name("trace")
    renames = int(robot.root.with_name("renames").read_text()) if at else 0
    call, number = ("rename", at) if at <= renames else ("fsync", at - renames)
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
    watched = inject if at else ["-e", f"trace={','.join(CALLS)}"]
    command = ["strace", "-f", "-qq", "-o", str(trace), *watched, sys.executable, "-m", *robot.arguments()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    finals = [json.loads(line) for line in done.stdout.splitlines() if '"final": true' in line]
    found = [trace.read_text().count(f" {name}(") for name in CALLS]
    if not at:
        robot.root.with_name("renames").write_text(str(found[0]))
    return done.returncode, finals, sum(found)


def at_every(robots: list[Robot], attempt: Callable[[Robot, int], tuple[int, list[Any], int]]) -> dict[str, Any]:
    """Kill at every place that a whole job has."""
    broken: list[str] = []
    places: dict[str, int] = {}
    for robot in robots:
        robot.renew()
        _, finals, places[robot.ends] = attempt(robot, 0)
        if [final["state"] for final in finals] != [robot.ends]:
            sys.exit(f"the job that is {robot.ends} ended as {finals}")
        for at in range(1, places[robot.ends] + 1):
            old = robot.renew()
            code, _, _ = attempt(robot, at)
            problem = "" if code in KILLED else f"exit code {code}: not killed"
            problem = problem or robot.problem_after_kill(old)
            _, finals = robot.job()
            problem = problem or robot.problem_at_the_end(old, finals)
            broken += [f"{robot.ends}, place {at}: {problem}"] if problem else []
            say(f"{robot.ends}: {at} of {places[robot.ends]} {problem}")
    kills = sum(places.values())
    return {"ratio": len(broken) / kills, "kills": kills, "places": places, "broken": broken}


def at_random(robots: list[Robot], tries: int) -> dict[str, Any]:
    """Kill after a random time, again and again, until the job is over."""
    rng, kills, jobs = random.Random(1), 0, 0
    broken: list[str] = []
    results: dict[str, int] = {}
    while kills < tries:
        robot = robots[jobs % len(robots)]
        jobs += 1
        old = robot.renew()
        code, finals = robot.job(timeout_s=rng.uniform(0.05, LONGEST_S))
        while code in KILLED:
            kills += 1
            broken += [problem for problem in [robot.problem_after_kill(old)] if problem]
            code, finals = robot.job(timeout_s=rng.uniform(0.05, LONGEST_S))
        broken += [problem for problem in [robot.problem_at_the_end(old, finals)] if problem]
        ended = finals[0]["state"] if finals else "none"
        results[ended] = results.get(ended, 0) + 1
    return {"ratio": len(broken) / kills, "kills": kills, "jobs": jobs, "results": results, "broken": broken}


if __name__ == "__main__":
    main()
