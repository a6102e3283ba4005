"""A bundle on probation: what counts as a crash, what does not, and one way back whatever happens on it."""

from __future__ import annotations

import itertools
import signal
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from bundle import durable
from bundle.errors import BintallyError, ConfigError, EngineError
from bundle.probation import read_note
from bundle.store import Store
from edge_agent.assemble import assemble
from edge_agent.commands.bundles import _after_restart
from edge_agent.commands.reasons import CommandError
from edge_agent.probation import PROVEN_AFTER_S, Probation
from tests.edge_agent.running import AgentProcess, config_text, load_text, write_photos
from tests.edge_agent.waiting import wait_until
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Robot:
    """A robot that counts with a bundle which is trusted, and then with another one."""

    def __init__(self, folder: Path) -> None:
        self.root, self.store = folder / "store", Store(folder / "store")
        self.old, self.new = (
            self.store.install(make_bundle(folder / version, version=version)).digest for version in ("1.0.0", "2.0.0")
        )
        self.store.activate(self.old)
        self.start().acquit()
        self.folder = folder

    def start(self, boot: str = "boot-1", now_s: Iterator[float] | None = None) -> Probation:
        clock = itertools.repeat(0.0) if now_s is None else now_s
        begun = Probation(self.root, boot=boot, clock=lambda: next(clock))
        begun.begin()
        return begun

    def deploy(self) -> None:
        self.store.install(self.folder / "2.0.0")
        self.store.activate(self.new)

    @property
    def counts_with(self) -> str | None:
        return {self.old: "old", self.new: "new"}.get(str(self.store.digests[0]))


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    made = Robot(tmp_path)
    made.deploy()
    return made


def test_probation_goes_back_after_three_crashes_once_and_says_so(robot: Robot) -> None:
    for _ in range(3):
        assert robot.start().untold is None
        assert robot.counts_with == "new"
    back = robot.start()
    assert robot.counts_with == "old"
    assert robot.store.digests[1] is None
    assert back.untold is not None
    assert back.untold.digest == robot.new
    assert "the agent ended 3 times with it; tiny-1.0.0" in back.untold.words
    again = robot.start()
    assert again.untold is not None  # killed before the event was on disk
    again.told()
    for _ in range(10):  # whatever ails this robot, nothing goes forth and back
        assert robot.start().untold is None
        assert robot.counts_with == "old"


def test_probation_of_the_same_bundle_begins_anew_when_it_is_activated_again(robot: Robot) -> None:
    for _ in range(4):
        robot.start()
    robot.deploy()
    for _ in range(3):
        assert robot.start().untold is None
        assert robot.counts_with == "new"
    assert robot.start().untold is not None
    assert robot.counts_with == "old"


def test_probation_counts_the_crash_of_the_run_in_which_the_bundle_was_activated(tmp_path: Path) -> None:
    robot = Robot(tmp_path)
    running = robot.start()
    robot.deploy()
    running.swapped()
    robot.start()
    robot.start()
    assert robot.counts_with == "new"
    robot.start()
    assert robot.counts_with == "old"


def test_probation_of_a_hotfix_goes_back_past_a_bundle_that_never_proved_itself(robot: Robot) -> None:
    robot.start()  # the new one crashes once
    hotfix = robot.store.install(make_bundle(robot.folder / "3.0.0", version="3.0.0")).digest
    robot.store.activate(hotfix)
    for _ in range(3):
        assert robot.start().untold is None
        assert robot.store.digests == (hotfix, robot.new)
    back = robot.start()
    assert robot.counts_with == "old"
    assert back.untold is not None
    assert back.untold.digest == hotfix
    assert [folder.name for folder in (robot.root / "bundles").iterdir()] == [robot.old]


def test_probation_goes_on_for_a_bundle_that_a_failed_deploy_came_back_to(robot: Robot) -> None:
    robot.start()
    robot.store.activate(robot.store.install(make_bundle(robot.folder / "3.0.0", version="3.0.0")).digest)
    robot.store.rollback(forget=True)
    for _ in range(3):
        robot.start()
    assert robot.counts_with == "old"


def test_probation_holds_no_power_cut_and_no_end_in_order_against_the_bundle(robot: Robot) -> None:
    for number in range(20):
        robot.start(boot=f"boot-{number}")
    for _ in range(20):
        robot.start(boot="boot-19").acquit()
    assert robot.counts_with == "new"


def _ends(begun: Probation, error: BintallyError) -> None:
    with pytest.raises(BintallyError), begun.fair():
        raise error


def test_probation_holds_an_engine_that_fails_against_the_bundle_and_a_wrong_configuration_not(robot: Robot) -> None:
    for _ in range(5):
        _ends(robot.start(), ConfigError("wrong"))
    assert robot.counts_with == "new"
    for _ in range(3):
        _ends(robot.start(), EngineError("20 frames in a row failed"))
    robot.start()
    assert robot.counts_with == "old"


def test_probation_ends_when_the_bundle_has_counted_for_long_enough(robot: Robot) -> None:
    first = robot.start(now_s=iter([10.0, 10.0 + PROVEN_AFTER_S - 1, 11.0 + PROVEN_AFTER_S]))
    first.counted()
    first.counted()
    assert read_note(robot.root) is not None
    assert read_note(robot.root).on_probation  # type: ignore[union-attr]  # the line above
    first.counted()
    for _ in range(10):
        robot.start()
    assert robot.counts_with == "new"


def test_probation_is_not_for_what_an_operator_goes_back_to(robot: Robot) -> None:
    running = robot.start()
    robot.store.rollback()
    running.swapped()
    for _ in range(10):
        robot.start()
    assert robot.counts_with == "old"
    assert robot.store.digests[1] == robot.new


def test_probation_without_a_previous_bundle_or_without_a_store_does_nothing(tmp_path: Path) -> None:
    robot = Robot(tmp_path)
    before = (robot.root / "probation.json").read_bytes()
    for _ in range(10):
        robot.start()
    assert (robot.counts_with, (robot.root / "probation.json").read_bytes()) == ("old", before)
    plain = tmp_path / "1.0.0"
    files = sorted(plain.iterdir())
    Probation(plain).begin()
    Probation(tmp_path / "missing").begin()
    assert sorted(plain.iterdir()) == files


def test_probation_whose_note_cannot_be_read_or_written_trusts_what_is_there(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    (robot.root / "probation.json").write_bytes(b'{"digest":')
    for _ in range(5):
        robot.start()
    assert robot.counts_with == "new"
    monkeypatch.setattr("edge_agent.probation.write_note", _full_disk)
    (robot.root / "probation.json").unlink()
    robot.start().acquit()


def _full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


class _Killed(BaseException):
    """The process is gone."""


class _Killer:
    """Ends the process at one of its durable writes, before or after it is done."""

    def __init__(self, at: int, *, done: bool) -> None:
        self._left, self._done, self._write = at, done, durable.write_bytes

    def __call__(self, path: Path, data: bytes) -> None:
        self._left -= 1
        if self._left or self._done:
            self._write(path, data)
        if not self._left:
            raise _Killed


@pytest.mark.parametrize("done", [False, True])
def test_probation_killed_at_any_moment_of_the_way_back_goes_back_once(tmp_path: Path, *, done: bool) -> None:
    for at in range(1, 20):
        (tmp_path / str(at)).mkdir()
        robot = Robot(tmp_path / str(at))
        robot.deploy()
        for _ in range(3):
            robot.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "write_bytes", _Killer(at, done=done))
            try:
                robot.start()
            except _Killed:
                killed = True
            else:
                killed = False
        following = robot.start()
        assert robot.counts_with == "old"
        assert following.untold is not None
        assert following.untold.digest == robot.new
        if not killed:
            break
    assert at > 3, "nothing was killed"


def test_agent_whose_new_bundle_is_damaged_counts_with_the_one_before(tmp_path: Path) -> None:
    robot = Robot(tmp_path)
    robot.deploy()
    (robot.root / "bundles" / robot.new / "card.md").write_text("other words", encoding="utf-8")
    photos = write_photos(tmp_path / "photos", [1, 2])
    config = load_text(tmp_path, config_text(bundle=robot.root, source=photos, state=tmp_path / "state"))
    agent = assemble(config)
    taken = agent.parts.probation.untold
    assert taken is not None
    assert "card.md" in taken.words
    assert agent.run()["accepted"] == 2
    assert robot.counts_with == "old"


def test_agent_asked_to_go_while_it_loads_its_bundle_goes_in_order(robot: Robot, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", [1])
    camera = "repeat = true\npause_s = 0.05"
    text = config_text(bundle=robot.root, source=photos, state=tmp_path / "state", camera=camera)
    agent = AgentProcess.start(tmp_path, text)
    wait_until(lambda: running(robot), what="the note of the start")
    assert agent.terminate() == 0, agent.stderr
    assert not running(robot)


_LOADS_FOR_EVER = """
import sys, threading
import bintally
from edge_agent import loading
loading.open_engine = lambda *_, **__: threading.Event().wait()
bintally.cli(["agent", "run", "--config", sys.argv[1]])
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_agent_asked_to_go_while_it_loads_and_ended_before_it_has_is_no_crash(
    robot: Robot, tmp_path: Path, end: signal.Signals
) -> None:
    photos = write_photos(tmp_path / "photos", [1])
    text = config_text(bundle=robot.root, source=photos, state=tmp_path / "state")
    agent = AgentProcess.start(tmp_path, text, [sys.executable, "-c", _LOADS_FOR_EVER])
    wait_until(lambda: running(robot), what="the note of the start")
    agent.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not running(robot), what="the acquittal")
    agent.process.send_signal(end)
    assert agent.wait() == {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGKILL: -signal.SIGKILL}[end]
    assert not running(robot)


def test_agent_asked_to_go_before_the_note_or_while_it_is_written_is_no_crash(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = Probation(robot.root, boot="boot-1")
    early.acquit()
    early.begin()
    assert not running(robot)
    write, asked = durable.write_bytes, Probation(robot.root, boot="boot-1")
    handlers = [asked.acquit]

    def write_and_be_asked(path: Path, data: bytes) -> None:
        if handlers:
            handlers.pop()()
        write(path, data)

    monkeypatch.setattr(durable, "write_bytes", write_and_be_asked)
    asked.begin()
    assert handlers == []
    assert not running(robot)


def running(robot: Robot) -> str:
    note = read_note(robot.root)
    return "" if note is None else note.running


def test_deploy_that_was_taken_back_before_it_was_answered_says_so(robot: Robot) -> None:
    for _ in range(4):
        robot.start()
    switch: Any = SimpleNamespace(root=robot.root, store=lambda: robot.store)
    with pytest.raises(CommandError, match="was taken back: the agent ended 3 times") as caught:
        _after_restart(switch, robot.new)
    assert (caught.value.reason.code, caught.value.state) == ("bundle_refused", "failed")
