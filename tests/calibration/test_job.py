from __future__ import annotations

import fcntl
import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bundle.camera import CameraProfile
from bundle.errors import ConfigError
from bundle.verify import load_bundle
from calibration.camera import reference_view
from calibration.job.collect import Clock, with_labels
from calibration.job.context import Surroundings
from calibration.job.journal import read_journal, write_journal
from calibration.job.run import recalibrate
from calibration.visits import Visit
from tests.calibration.conv_bundle import make_conv_bundle
from tests.calibration.robot import NOW, Robot, request_of, states_of
from tests.calibration.scenes import SIZE_WH, scene, write_records

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]


def test_job_with_labels_activates_a_bundle_with_a_proven_promise(robot: Robot) -> None:
    write_records(robot.visits, 200, 5, noise=0.3)
    journal = robot.run()
    assert journal.state == "activated", journal.reason
    current = robot.store.current()
    promise = current.manifest.calibration.promise
    assert promise is not None
    assert promise.verified
    assert promise.frames == journal.collected["used"] > 190
    assert current.manifest.provenance.calibrated_from == robot.first.digest
    assert journal.after is not None
    assert current.digest == journal.after.digest
    assert states_of(robot) == ["accepted", "collecting", "fitting", "checking", "activating", "watching", "activated"]
    assert robot.lines[-1]["progress"] == 1.0
    assert all(check.passed for check in journal.checks)
    previous = robot.store.previous()
    assert previous is not None
    assert previous.digest == robot.first.digest


def test_job_without_labels_keeps_the_promise_marked_unverified_and_says_so(robot: Robot) -> None:
    write_records(robot.visits, 150, 5, noise=0.3, labelled=False)
    journal = robot.run()
    assert journal.state == "activated", journal.reason
    promise = robot.store.current().manifest.calibration.promise
    assert promise is not None
    assert not promise.verified
    assert robot.store.current().manifest.calibration.threshold == robot.first.manifest.calibration.threshold
    assert any("error promise: needs >= 20 labelled visits" in words for words in journal.did_not)
    assert any("drift reference" in words for words in journal.did)


def test_job_labels_of_the_command_win_over_none(robot: Robot) -> None:
    write_records(robot.visits, 200, 5, noise=0.3, labelled=False)
    rng = np.random.default_rng(5)
    labels = {}
    for index in range(200):
        truth = int(rng.integers(0, 6))
        scene(rng, truth + rng.normal(0, 0.3))  # draws what write_records drew
        labels[f"bin-{index}"] = truth
    journal = robot.run(labels=labels)
    assert journal.state == "activated", journal.reason
    assert journal.after is not None
    assert journal.after.calibration.promise is not None
    assert journal.after.calibration.promise.frames > 190


def test_job_refits_int8_ranges_on_a_network_that_has_some(tmp_path: Path) -> None:
    robot = Robot(tmp_path, make_conv_bundle(tmp_path / "conv"))
    write_records(robot.visits, 150, 5, noise=0.3, change=_darker, labelled=False)
    journal = robot.run()
    assert journal.state == "activated", (journal.reason, journal.checks)
    before, after = robot.first, robot.store.current()
    assert any(words.startswith("INT8 ranges: cpu") for words in journal.did), journal.did_not
    assert before.manifest.files["model.cpu.onnx"] != after.manifest.files["model.cpu.onnx"]
    assert before.manifest.files["model.fp32.onnx"] == after.manifest.files["model.fp32.onnx"]
    assert [result.role for result in after.manifest.parity.results] == ["cpu"]


def test_labels_of_a_request_go_to_the_visit_of_the_bin_that_is_nearest_in_time() -> None:
    request = request_of(labels={"a": 3, "b": 4})
    late, early, close = (NOW + timedelta(minutes=minutes) for minutes in (30, -60, -5))
    seen = [("a", early), ("a", close), ("a", late), ("b", None), ("b", None), ("c", close)]
    visits = [Visit(f"v{index}", bin_id, (), 7, at) for index, (bin_id, at) in enumerate(seen)]
    assert [visit.label for visit in with_labels(visits, request)] == [7, 3, 7, 7, 4, 7]


def test_job_too_few_labels_for_the_promise_is_refused_with_the_number_it_takes(robot: Robot) -> None:
    write_records(robot.visits, 110, 5, noise=0.3)
    journal = robot.run(risk=0.01)
    assert journal.state == "refused"
    assert "needs >= " in journal.reason
    assert robot.store.current().digest == robot.first.digest


def _black(picture: Picture) -> Picture:
    return np.zeros_like(picture)


def _static(picture: Picture) -> Picture:
    noise = np.random.default_rng(int(picture.sum())).normal(110, 40, picture.shape)
    return np.asarray(np.clip(noise, 0, 255), np.uint8)


def _darker(picture: Picture) -> Picture:
    return np.asarray(picture * 0.8, np.uint8)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        ({"change": _black}, "150 of 150 visits are black, flat or noise"),
        ({"change": _static}, "150 of 150 visits are black, flat or noise"),
        ({"label": lambda _: 3}, "labels vary"),
        ({"label": lambda count: (count + 1) % 6}, "labels are not shifted"),
        ({"label": lambda count: 5 - count}, "labels fit the pictures"),
    ],
    ids=["black frames", "a loose cable", "one label for all", "labels off by one", "labels turned round"],
)
def test_job_garbage_is_refused_and_the_old_bundle_stays(robot: Robot, write: dict[str, Any], reason: str) -> None:
    write_records(robot.visits, 150, 5, noise=0.3, **write)
    # A risk that even nonsense could meet, so that the labels themselves must be seen through.
    journal = robot.run(risk=0.98)
    assert journal.state == "refused"
    assert reason in journal.reason
    assert robot.store.current().digest == robot.first.digest
    assert not (robot.root / "recalibrations" / "job-1" / "candidate").exists()


def test_job_one_bin_repeated_is_refused(robot: Robot) -> None:
    one = scene(np.random.default_rng(3), 2)
    rng = np.random.default_rng(4)

    def noisy(_: Picture) -> Picture:
        return np.asarray(np.clip(one + rng.normal(0, 3, one.shape), 0, 255), np.uint8)

    write_records(robot.visits, 150, 5, change=noisy)
    journal = robot.run()
    assert journal.state == "refused"
    assert "only 1 of 150 visits differ" in journal.reason


def test_job_labels_drawn_by_lot_are_refused(robot: Robot) -> None:
    rng = np.random.default_rng(0)
    write_records(robot.visits, 150, 5, noise=0.3, label=lambda _: int(rng.integers(0, 6)))
    journal = robot.run(risk=0.98)
    assert journal.state == "refused"
    assert robot.store.current().digest == robot.first.digest


def test_job_too_few_visits_is_refused_with_both_numbers(robot: Robot) -> None:
    write_records(robot.visits, 30, 5)
    assert robot.run().reason == "30 visits were collected, at least 100 are needed"


def test_job_waits_for_visits_until_the_time_is_up(robot: Robot) -> None:
    write_records(robot.visits, 60, 5, noise=0.3)

    def arrive(time_s: float) -> None:
        if time_s == 5.0:
            write_records(robot.visits, 60, 6, noise=0.3, start=60)

    robot.arrive = arrive
    journal = robot.run(collect_s=10, watch_s=1)
    assert journal.collected["found"] == 120
    assert robot.time_s >= 10


def test_job_that_is_over_is_reported_again_and_not_done_again(robot: Robot) -> None:
    write_records(robot.visits, 30, 5)
    first = robot.run()
    write_records(robot.visits, 200, 6, noise=0.3, start=30)
    robot.lines.clear()
    assert robot.run() == first
    assert robot.lines == []
    assert robot.run(job_id="job-2").state == "activated"


def test_job_waits_a_moment_for_the_lock_of_one_that_was_killed(robot: Robot) -> None:
    write_records(robot.visits, 30, 5)
    (robot.root / "recalibrations").mkdir()
    with (robot.root / "recalibrations" / ".lock").open("w") as left_behind:
        fcntl.flock(left_behind, fcntl.LOCK_EX)
        robot.arrive = lambda time_s: fcntl.flock(left_behind, fcntl.LOCK_UN) if time_s > 1 else None
        assert robot.run().state == "refused"


def test_job_second_one_at_the_same_time_is_refused(robot: Robot) -> None:
    write_records(robot.visits, 30, 5)
    refusals: list[str] = []

    def emit(line: dict[str, Any]) -> None:
        if line["state"] == "collecting":
            with pytest.raises(ConfigError, match="another recalibration is running"):
                recalibrate(robot.around(), request_of(job_id="job-2"))
            refusals.append(line["state"])

    recalibrate(replace(robot.around(), emit=emit), request_of())
    assert refusals


def test_job_without_an_active_bundle_is_refused(tmp_path: Path) -> None:
    write_records(tmp_path / "visits", 120, 1)
    clock = Clock(lambda: 0.0, lambda _: None)
    around = Surroundings(tmp_path / "store", tmp_path / "visits", clock, lambda: NOW, lambda _: None)
    journal = recalibrate(around, request_of())
    assert journal.state == "refused"
    assert "has no active bundle" in journal.reason


def test_job_record_is_the_audit_who_when_before_after_why(robot: Robot) -> None:
    write_records(robot.visits, 150, 5, noise=0.3)
    robot.run(why="new lamps")
    content = json.loads((robot.root / "recalibrations" / "job-1" / "job.json").read_text())
    assert (content["request"]["actor"], content["request"]["why"]) == ("a person", "new lamps")
    assert content["before"]["digest"] == robot.first.digest
    assert content["after"]["digest"] == robot.store.current().digest
    assert content["before"]["calibration"]["threshold"] != content["after"]["calibration"]["threshold"]
    assert [step["state"] for step in content["steps"]][-1] == "activated"
    assert len(content["checks"]) >= 8


def test_jobs_that_are_over_are_bounded(robot: Robot) -> None:
    write_records(robot.visits, 21, 5)
    for number in range(70):
        (robot.root / "recalibrations" / f"old-{number}").mkdir(parents=True)
    robot.run()
    assert len([one for one in (robot.root / "recalibrations").iterdir() if one.is_dir()]) == 50
    assert (robot.root / "recalibrations" / "job-1" / "job.json").is_file()


def test_journal_survives_its_file(robot: Robot) -> None:
    write_records(robot.visits, 150, 5, noise=0.3)
    journal = robot.run()
    folder = robot.root / "recalibrations" / "job-1"
    assert read_journal(folder) == journal
    write_journal(folder, journal)
    assert read_journal(folder) == journal
    assert load_bundle(robot.store.current().path).digest == robot.store.current().digest


def test_job_with_a_camera_profile_rectifies_photos_and_refuses_a_camera_that_moved(robot: Robot) -> None:
    write_records(robot.visits, 150, 5, noise=0.3)
    profile = CameraProfile(camera="front", created=NOW, frame_wh=SIZE_WH)
    seen = replace(robot.around(), profile=profile)
    assert recalibrate(seen, request_of()).state == "activated"
    # A reference view of a shelf with bright bars, which these visits do not show.
    bars = np.zeros((SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
    bars[::12] = bars[1::12] = 255
    other = profile.model_copy(update={"view": reference_view(profile, [bars])})
    journal = recalibrate(replace(robot.around(), profile=other), request_of(job_id="job-2"))
    assert journal.state == "refused"
    assert "camera front has moved" in journal.reason
