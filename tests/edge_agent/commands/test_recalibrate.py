"""The job's interface, with a stand-in for the job that switches a real store."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from bundle.store import Store
from bundle.visits import VisitRecord
from edge_agent.commands.order import Order
from edge_agent.commands.parse import parse
from edge_agent.commands.reasons import CommandError
from edge_agent.commands.recalibrate import RecalibrateHandler
from edge_agent.messages import utc
from edge_agent.visits.recorder import Recorder
from edge_agent.visits.visit_folder import VisitFolder
from tests.edge_agent.waiting import wait_until
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from edge_agent.commands.bundles import Switch
    from edge_agent.messages import CountMessage

_ROOT = Path(__file__).resolve().parents[3]
_JOB = """
import json, sys
from pathlib import Path
from bundle.store import Store
request = json.loads(sys.stdin.read())
store, how = Store(Path(sys.argv[sys.argv.index("--store") + 1])), Path(__file__).with_name("how").read_text()
def say(state, **more):
    print(json.dumps({"job_id": request["job_id"], "state": state, "progress": 0.5, "words": "w", **more}), flush=True)
say("collecting")
print("not a line of the interface", flush=True)
if how == "dies":
    sys.exit(9)
if how == "hangs":
    sys.stdin = None
    import time; time.sleep(600)
store.activate(store.install(Path(__file__).with_name("candidate")).digest)
say("watching")
if how == "reverted":
    say("reverting")
    store.rollback(forget=True)
    say("reverted")
say(how, final=True, reason="because", labels=request["labels"])
"""


class Follower:
    """Notes what the agent would count with, each time it follows the store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.followed: list[str] = []

    def store(self) -> Store:
        return Store(self.root)

    def follow_store(self) -> bool:
        self.followed.append(Store(self.root).current().manifest.version)
        return True


class Listener:
    """Progress of a test."""

    def __init__(self, *, stop_after: int = 1000) -> None:
        self.said: list[str] = []
        self._left = stop_after

    @property
    def stopping(self) -> bool:
        return self._left <= 0

    def say(self, share: float, words: str, detail: object = None) -> None:
        del share, detail
        self.said.append(words)

    def wait(self, timeout_s: float) -> bool:
        del timeout_s
        self._left -= 1
        return self.stopping


def order() -> Order:
    now = datetime.now(timezone.utc)
    content: dict[str, Any] = {
        "command_id": "recalibrate-1",
        "issued_at": now.isoformat(),
        "actor": "a",
        "labels": {"b1": 3},
    }
    content |= {"expires_at": (now + timedelta(hours=1)).isoformat(), "ranges": False}
    payload = json.dumps(content).encode()
    return Order("recalibrate", parse("recalibrate", payload, retained=False), payload)


def handler(folder: Path, how: str) -> tuple[RecalibrateHandler, Follower, Recorder]:
    store = Store(folder / "store")
    store.activate(store.install(make_bundle(folder / "first")).digest)
    make_bundle(folder / "candidate", version="2.0.0")
    (folder / "how").write_text(how, encoding="utf-8")
    lines = f"import sys; sys.path.insert(0, {str(_ROOT)!r})\n{textwrap.dedent(_JOB)}"
    (folder / "job.py").write_text(lines, encoding="utf-8")
    follower, recorder = Follower(folder / "store"), Recorder(folder / "visits", 1 << 20)
    switch: Any = follower
    made: Switch = switch
    return (
        RecalibrateHandler(made, recorder, "onnxruntime", command=(sys.executable, str(folder / "job.py"))),
        follower,
        recorder,
    )


def test_recalibrate_follows_the_store_before_the_job_when_it_watches_and_when_it_is_over(tmp_path: Path) -> None:
    made, follower, recorder = handler(tmp_path, "activated")
    listener = Listener()
    done = made.run(order(), listener)
    assert done is not None
    assert (done.words, done.detail["state"]) == ("because", "activated")
    assert follower.followed == ["1.0.0", "2.0.0", "2.0.0"]
    assert [words.partition(":")[0] for words in listener.said] == ["collecting", "watching"]
    assert not recorder.active


def test_recalibrate_that_is_taken_back_counts_with_the_old_bundle_again(tmp_path: Path) -> None:
    made, follower, _ = handler(tmp_path, "reverted")
    with pytest.raises(CommandError, match="reverted: because") as caught:
        made.run(order(), Listener())
    assert (caught.value.reason.code, caught.value.state) == ("not_better", "failed")
    assert follower.followed[-1] == "1.0.0"


def test_recalibrate_with_a_camera_that_has_moved_is_refused_before_anything_is_begun(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "visits", 1 << 20)
    switch: Any = Follower(tmp_path / "store")
    moved = RecalibrateHandler(switch, recorder, "onnxruntime", lambda: "camera front has moved by +9,+0 pixels")
    with pytest.raises(CommandError, match="camera front has moved") as caught:
        moved.run(order(), Listener())
    assert (caught.value.reason.code, caught.value.state) == ("camera_moved", "refused")
    assert not recorder.active


def _count(visit: str) -> CountMessage:
    message: Any = SimpleNamespace(event_id=visit, bin_id="b", captured_at=utc(1_700_000_000))
    return cast("CountMessage", message)


def _write_visits(folder: Path, amount: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(amount):
        (folder / f"{number}-0.jpg").write_bytes(b"x")
        (folder / f"{number}.json").write_text("{}")


def test_recorder_gives_each_job_its_own_visits_alone(tmp_path: Path) -> None:
    _write_visits(tmp_path / "visits", 2)  # as they lay before jobs had folders
    for job in ("job-a", "job-b"):
        folder = Recorder(tmp_path / "visits", 1 << 20).begin(job)
        assert list(folder.iterdir()) == []
        _write_visits(folder, 50)
        assert list((tmp_path / "visits").iterdir()) == [folder]
    again = Recorder(tmp_path / "visits", 1 << 20).begin("job-b")  # as a resumed job does
    assert len(list(again.iterdir())) == 100


def test_recorder_keeps_what_waits_for_a_job_that_is_over_from_the_next_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "visits", 1 << 20)
    recorder.begin("job-a")
    recorder.put(_count("visit-of-a"), [b"x"])
    recorder.end()
    folder = recorder.begin("job-b")
    recorder.put(_count("visit-of-b"), [b"x"])
    recorder.worker.start()
    wait_until(lambda: recorder.written == 1, what="a visit")
    assert recorder.finish(10)
    assert {file.stem for file in folder.glob("*.json")} == {"visit-of-b"}


@pytest.mark.parametrize("resumed", [False, True])
def test_recalibrate_after_a_killed_agent_keeps_the_visits_of_its_own_job_alone(
    tmp_path: Path, *, resumed: bool
) -> None:
    made, _, _ = handler(tmp_path, "hangs")
    given = replace(order(), resumed=resumed)
    _write_visits(tmp_path / "visits" / "an-earlier-job", 3)
    _write_visits(tmp_path / "visits" / given.id, 3 * resumed)
    assert (made.resume if resumed else made.run)(given, Listener(stop_after=4)) is None
    assert [folder.name for folder in (tmp_path / "visits").iterdir()] == [given.id]
    assert len(list((tmp_path / "visits" / given.id).iterdir())) == 6 * resumed


def test_recalibrate_that_goes_on_is_not_stopped_by_a_camera_that_seems_to_have_moved(tmp_path: Path) -> None:
    made, _, _ = handler(tmp_path, "activated")
    made._moved = lambda: "camera front has moved"
    done = made.resume(replace(order(), resumed=True), Listener())  # its switch may be made: the watch must not end
    assert done is not None


def test_recalibrate_needs_its_packages_when_it_begins_and_not_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, _ = handler(tmp_path, "activated")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnx" else name)
    given = replace(order(), command=order().command.model_copy(update={"ranges": True}))
    with pytest.raises(CommandError, match=r"deploy/install\.sh") as caught:
        made.run(given, Listener())
    assert caught.value.reason.code == "not_installed"
    assert made.resume(replace(given, resumed=True), Listener()) is not None


def test_recalibrate_whose_job_cannot_be_started_writes_no_visits(tmp_path: Path) -> None:
    _, follower, recorder = handler(tmp_path, "activated")
    switch: Any = follower
    made = RecalibrateHandler(switch, recorder, "onnxruntime", command=(str(tmp_path / "missing"),))
    with pytest.raises(FileNotFoundError):
        made.run(order(), Listener())
    assert not recorder.active


def _visit(name: str, *sizes: int) -> tuple[VisitRecord, list[bytes]]:
    record = VisitRecord(visit=name, bin_id="b", frames=tuple(f"{name}-{n}.jpg" for n in range(len(sizes))))
    return record, [b"x" * size for size in sizes]


def test_visit_folder_that_goes_on_is_bounded_by_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = VisitFolder(tmp_path / "job", 1 << 20)
    for name, sizes in (("01a-7", (4000,)), ("01a-7000", (3000, 4000)), ("01b", (1000,))):
        first.write(*_visit(name, *sizes))
    (tmp_path / "job" / "gone-0.jpg").write_bytes(b"its record was never written")
    monkeypatch.setattr(Path, "glob", None)  # a pass over the folder for each visit
    again = VisitFolder(tmp_path / "job", 14_000)
    assert again.size == first.size == sum(file.stat().st_size for file in (tmp_path / "job").iterdir())
    again.write(*_visit("01c", 2000))
    left = {file.name for file in (tmp_path / "job").iterdir()}
    assert left == {
        "01a-7000.json",
        "01a-7000-0.jpg",
        "01a-7000-1.jpg",
        *("01b.json", "01b-0.jpg", "01c.json", "01c-0.jpg"),
    }
    assert again.size == sum((tmp_path / "job" / name).stat().st_size for name in left)


def test_recalibrate_job_that_dies_is_said(tmp_path: Path) -> None:
    made, follower, recorder = handler(tmp_path, "dies")
    with pytest.raises(CommandError) as caught:
        made.run(order(), Listener())
    assert caught.value.reason.code == "job_failed"
    assert follower.followed == ["1.0.0", "1.0.0"]
    assert not recorder.active


def test_recalibrate_ends_its_job_when_the_agent_ends_and_stays_open(tmp_path: Path) -> None:
    made, _, recorder = handler(tmp_path, "hangs")
    assert made.run(order(), Listener(stop_after=4)) is None
    assert recorder.active  # its visits are still wanted
