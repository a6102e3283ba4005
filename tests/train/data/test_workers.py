from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bundle.errors import ConfigError, InputError
from train.data.workers import run_in_order

if TYPE_CHECKING:
    from collections.abc import Iterator


def double(value: int) -> tuple[int, int]:
    time.sleep(0.02 if value % 2 else 0.0)  # odd ones finish later than their successors
    return 2 * value, os.getpid()


def complain(value: int) -> int:
    if value == 3:
        raise InputError("three is not a photo", got=value)
    return value


def shout(value: int) -> int:
    sys.stdout.write("a stray print\n")
    return value


def die(value: int) -> int:
    if value == 2:
        os._exit(9)
    return value


def test_run_in_order_several_processes_give_ordered_results() -> None:
    found = list(run_in_order(double, range(20), workers=2))
    assert [value for value, _ in found] == [2 * value for value in range(20)]
    used = {process for _, process in found}
    assert len(used) == 2
    assert os.getpid() not in used


def test_run_in_order_one_worker_stays_here() -> None:
    assert list(run_in_order(double, [1], workers=1)) == [(2, os.getpid())]


def test_run_in_order_error_of_the_work_arrives_as_it_was() -> None:
    with pytest.raises(InputError, match="three is not a photo"):
        list(run_in_order(complain, range(6), workers=2))


def test_run_in_order_prints_do_not_disturb_the_answers() -> None:
    assert list(run_in_order(shout, range(4), workers=2)) == [0, 1, 2, 3]


def test_run_in_order_died_process_is_an_error_not_a_hang() -> None:
    with pytest.raises(ConfigError, match="a process that reads photos died"):
        list(run_in_order(die, range(6), workers=2))


def test_run_in_order_takes_tasks_lazily() -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for value in range(1000):
            taken += 1
            yield value

    results = run_in_order(complain, tasks(), workers=2)
    assert next(results) == 0
    assert taken < 20
    assert isinstance(results, Generator)
    results.close()


def test_workers_end_with_their_parent(tmp_path: Path, repository: Path) -> None:
    code = (
        "import time\nfrom tests.train.data.test_workers import double\n"
        "from train.data.workers import run_in_order\n"
        "for _, process in run_in_order(double, iter(range(10**9)), workers=2):\n"
        f"    open({str(tmp_path / 'pids')!r}, 'a').write(f'{{process}}\\n')\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=repository)
    pids = tmp_path / "pids"
    deadline = time.monotonic() + 120
    while len(_lines(pids)) < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    workers = {int(line) for line in _lines(pids) if line}
    assert len(workers) == 2
    while any(_alive(process) for process in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(process) for process in workers)


def _lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
