"""The job as a real process, killed for real: the store holds the old or the new bundle, and every job ends once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundle.store import Store
from edge_agent.capture import process as capture
from tests.calibration.scenes import write_records
from tests.edge_agent.waiting import wait_until

_NOW = "2026-03-04T05:06:07Z"


class _Process:
    """Starts `bintally recalibrate` for one job on one store."""

    def __init__(self, folder: Path, repository: Path, bundle: Path) -> None:
        self.root, self.visits, self.repository = folder / "store", folder / "visits", repository
        self.store = Store(self.root)
        self.first = self.store.activate(self.store.install(bundle).digest)

    def start(self, job_id: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bintally", "recalibrate", "--store", str(self.root), "--json"]
        command += ["--visits", str(self.visits), "--job-id", job_id, "--watch-visits", "40", *options]
        return subprocess.Popen(command, cwd=self.repository, stdout=subprocess.PIPE, text=True)

    def kill_in(self, job_id: str, state: str) -> None:
        with self.start(job_id) as child:
            assert child.stdout is not None
            seen = next((line for line in child.stdout if json.loads(line)["state"] == state), None)
            child.kill()
        assert seen is not None, f"the job never reached {state}"
        assert child.returncode == -9

    def run(self, job_id: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
        with self.start(job_id, *options) as child:
            assert child.stdout is not None
            lines = [json.loads(line) for line in child.stdout]
        return child.returncode, lines


@pytest.fixture
def process(tmp_path: Path, repository: Path, calibrated_bundle: Path) -> _Process:
    return _Process(tmp_path, repository, calibrated_bundle)


def _result(lines: list[dict[str, Any]]) -> dict[str, Any]:
    (result,) = [line for line in lines if line.get("final")]
    assert lines[-1] == result
    return result


@pytest.mark.slow
def test_process_killed_in_every_state_leaves_old_or_new_and_ends_in_one_result(process: _Process) -> None:
    write_records(process.visits, 180, 5, noise=0.3)
    for state in ("accepted", "collecting", "fitting", "checking"):
        process.kill_in("job-a", state)
        assert process.store.current().digest == process.first.digest
    code, lines = process.run("job-a")
    first_result = _result(lines)
    assert (code, first_result["state"]) == (0, "activated")
    new = process.store.current().digest
    assert new == first_result["after"]["digest"]
    assert process.run("job-a")[1] == [first_result]  # asked again, answered the same
    for state in ("activating", "watching"):
        process.kill_in("job-b", state)
        assert process.store.current().digest in {new, *_candidates(process, "job-b")}
    code, lines = process.run("job-b")
    assert (code, _result(lines)["state"]) == (0, "activated")
    assert process.store.current().digest == _result(lines)["after"]["digest"]


def _candidates(process: _Process, job_id: str) -> set[str]:
    content = json.loads((process.root / "recalibrations" / job_id / "job.json").read_text())
    return {content["after"]["digest"]}


@pytest.mark.slow
def test_process_killed_on_the_way_back_resumes_to_the_old_bundle(process: _Process) -> None:
    write_records(process.visits, 160, 5, noise=0.3)
    write_records(process.visits, 40, 6, noise=0.3, start=160, label=lambda count: (count + 1) % 6)
    process.kill_in("job-c", "reverting")
    code, lines = process.run("ignored", "--resume")
    assert (code, _result(lines)["job_id"], _result(lines)["state"]) == (1, "job-c", "reverted")
    assert process.store.current().digest == process.first.digest


def test_process_takes_its_request_from_stdin_and_refuses_with_a_reason(process: _Process) -> None:
    write_records(process.visits, 30, 5)
    request = {"job_id": "from-stdin", "actor": "a person", "asked_at": _NOW, "labels": {"bin-1": 3}}
    command = [sys.executable, "-m", "bintally", "recalibrate", "--store", str(process.root), "--visits",
               str(process.visits), "--json", "--request", "-", "--background"]  # fmt: skip
    done = subprocess.run(
        command, cwd=process.repository, input=json.dumps(request), capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    result = _result(lines)
    assert done.returncode == 1
    assert (result["job_id"], result["state"]) == ("from-stdin", "refused")
    assert result["reason"] == "30 visits were collected, at least 100 are needed"
    assert [line["state"] for line in lines[:-2]] == ["accepted", "collecting", "collecting"]


def test_process_in_the_background_ends_before_a_capture_process_where_memory_runs_out(process: _Process) -> None:
    command = [sys.executable, "-m", "bintally", "recalibrate", "--store", str(process.root), "--visits", "nowhere"]
    options = ["--request", "-", "--background"]
    with subprocess.Popen([*command, *options], cwd=process.repository, stdin=subprocess.PIPE) as child:
        score = Path(f"/proc/{child.pid}/oom_score_adj")
        try:  # it waits for its request
            wait_until(
                lambda: int(score.read_text(encoding="ascii")) > int(capture._GOES_FIRST), what="the job's score"
            )
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("request_text", "where"),
    [("{}", "job_id"), ('{"job_id": "a/b", "actor": "x", "asked_at": "2026-01-01T00:00:00Z"}', "job_id"), ("[", "the")],
)
def test_process_request_that_is_wrong_is_refused_by_key(process: _Process, request_text: str, where: str) -> None:
    command = [sys.executable, "-m", "bintally", "recalibrate", "--store", str(process.root), "--visits", "nowhere"]
    done = subprocess.run(
        [*command, "--request", "-"],
        cwd=process.repository,
        input=request_text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert f"the request is not valid at {where}" in done.stderr


def test_process_whose_listener_is_gone_goes_on(process: _Process) -> None:
    write_records(process.visits, 150, 5, noise=0.3)
    with process.start("job-d") as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
    assert child.returncode == 0
    assert process.store.current().digest != process.first.digest
