"""After the checks: the switch, the watch, the way back, and being killed anywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bundle.errors import BundleError
from bundle.probation import Note, TakenBack, write_note
from bundle.verify import load_bundle
from calibration.job.run import recalibrate, unfinished
from tests.calibration.robot import killed_in, request_of
from tests.calibration.scenes import scene, write_records

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.calibration.robot import Robot

    Picture = NDArray[np.uint8]


def test_job_watched_visits_as_predicted_keep_the_candidate(robot: Robot) -> None:
    write_records(robot.visits, 240, 5, noise=0.3)
    journal = robot.run(watch_visits=60)
    assert journal.state == "activated", journal.reason
    assert journal.watched is not None
    assert journal.watched.visits == 60
    assert journal.reason.startswith("as predicted on 60 visits")


def test_job_watched_visits_unlike_the_prediction_bring_the_old_bundle_back_for_good(robot: Robot) -> None:
    write_records(robot.visits, 180, 5, noise=0.3)
    # Between two counts the counter is unsure of everything.
    rng = np.random.default_rng(9)

    def half(_: Picture) -> Picture:
        return scene(rng, int(rng.integers(0, 5)) + 0.5)

    write_records(robot.visits, 60, 6, start=180, change=half, labelled=False)
    journal = robot.run(watch_visits=60)
    assert journal.state == "reverted"
    assert "visits were unsure, predicted were" in journal.reason
    assert robot.store.current().digest == robot.first.digest
    with pytest.raises(BundleError, match="no previous bundle"):
        robot.store.rollback()


def test_job_in_a_folder_that_grows_watches_what_comes_after_the_activation(robot: Robot) -> None:
    write_records(robot.visits, 150, 5, noise=0.3)
    rng = np.random.default_rng(9)

    def half(_: Picture) -> Picture:
        return scene(rng, int(rng.integers(0, 5)) + 0.5)

    def emit(line: dict[str, Any]) -> None:
        if line["state"] == "checking":
            write_records(robot.visits, 60, 6, noise=0.3, start=150)

    def arrive(_: float) -> None:
        write_records(robot.visits, 60, 7, start=210, change=half, labelled=False)

    robot.arrive = arrive
    request = request_of(max_visits=150, collect_s=60, watch_visits=60, watch_s=60)
    journal = recalibrate(replace(robot.around(), emit=emit), request)
    assert journal.state == "reverted", journal.reason
    assert journal.watched is not None
    assert journal.watched.visits == 60


def test_job_watched_labels_that_break_the_promise_bring_the_old_bundle_back(robot: Robot) -> None:
    write_records(robot.visits, 180, 5, noise=0.3)
    write_records(robot.visits, 60, 6, noise=0.3, start=180, label=lambda count: (count + 1) % 6)
    journal = robot.run(watch_visits=60)
    assert journal.state == "reverted"
    assert "confident counts were wrong, promised was" in journal.reason


@pytest.mark.parametrize("state", ["accepted", "collecting", "fitting", "checking"])
def test_job_killed_before_the_switch_starts_anew_and_ends_once(robot: Robot, state: str) -> None:
    write_records(robot.visits, 150, 5, noise=0.3)
    killed_in(robot, state)
    assert robot.store.current().digest == robot.first.digest
    assert unfinished(robot.root) == ["job-1"]
    journal = robot.run()
    assert (journal.state, journal.attempts) == ("activated", 2)
    assert unfinished(robot.root) == []


@pytest.mark.parametrize("state", ["activating", "watching", "activated"])
def test_job_killed_at_the_switch_goes_on_to_the_new_bundle(robot: Robot, state: str) -> None:
    write_records(robot.visits, 240, 5, noise=0.3)
    killed_in(robot, state, watch_visits=60)
    journal = robot.run()
    assert journal.state == "activated", journal.reason
    assert journal.after is not None
    assert robot.store.current().digest == journal.after.digest


def test_job_whose_candidate_the_agent_took_back_does_not_activate_it_again(robot: Robot) -> None:
    write_records(robot.visits, 240, 5, noise=0.3)
    killed_in(robot, "activating")
    candidate = load_bundle(robot.root / "recalibrations" / "job-1" / "candidate").digest
    taken = TakenBack(digest=candidate, words="it was taken back: the agent ended 3 times with it")
    first = robot.first.digest
    write_note(robot.root, Note(digest=first, trusted=first, taken_back=taken))
    journal = robot.run()
    assert (journal.state, journal.reason) == ("reverted", taken.words)
    assert robot.store.current().digest == first


def test_job_killed_on_the_way_back_goes_on_to_the_old_bundle(robot: Robot) -> None:
    write_records(robot.visits, 180, 5, noise=0.3)
    write_records(robot.visits, 60, 6, noise=0.3, start=180, label=lambda count: (count + 1) % 6)
    killed_in(robot, "reverting", watch_visits=60)
    journal = robot.run()
    assert journal.state == "reverted"
    assert robot.store.current().digest == robot.first.digest


def test_job_that_keeps_being_killed_fails_instead_of_trying_for_ever(robot: Robot) -> None:
    write_records(robot.visits, 30, 5)
    for _ in range(5):
        killed_in(robot, "collecting")
    journal = robot.run()
    assert journal.state == "failed"
    assert "interrupted 5 times" in journal.reason


def test_job_interrupted_watch_with_a_bundle_activated_by_hand_leaves_that_one(robot: Robot) -> None:
    write_records(robot.visits, 240, 5, noise=0.3)
    killed_in(robot, "watching", watch_visits=60)
    by_hand = robot.store.rollback()
    journal = robot.run()
    assert journal.state == "reverted"
    assert "another bundle was activated meanwhile" in journal.reason
    assert robot.store.current().digest == by_hand.digest


def test_damaged_candidate_is_never_activated(robot: Robot) -> None:
    write_records(robot.visits, 150, 5, noise=0.3)
    killed_in(robot, "activating")
    folder = robot.root / "recalibrations" / "job-1"
    model = folder / "candidate" / "model.cpu.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    journal = robot.run()
    assert journal.state == "failed"
    assert robot.store.current().digest == robot.first.digest
