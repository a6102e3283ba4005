from __future__ import annotations

import numpy as np
import pytest

from edge_agent.capture.frames import FrameMessage, FrameStats
from edge_agent.config import CameraSection
from edge_agent.visits.count_message import name_bin
from edge_agent.visits.view import View

_STATS = FrameStats(brightness=100.0, sharpness=50.0, motion=0.0, checksum=1)


def _message(marker: str = "") -> FrameMessage:
    return FrameMessage(
        slot=0,
        index=0,
        name="frame 0",
        height=1,
        width=1,
        encoded_bytes=0,
        captured_s=0.0,
        captured_mono_s=0.0,
        position_s=None,
        dropped=0,
        stats=_STATS,
        marker=marker,
    )


def _view(template: str = "{camera}") -> View:
    return View(settings=CameraSection(source=0, name="left"), trigger="settle", template=template)


def _visit(view: View, *, counted: bool, flags: set[str]) -> None:
    view.flags = flags
    if counted:
        view.first = _message()
        view.posteriors.append(np.ones(1))
    view.close()


def test_view_visit_after_visit_lost_to_blur_is_a_camera_that_sees_nothing() -> None:
    view = _view()
    said = []
    for counted in (False, False, False, False, False, True):
        _visit(view, counted=counted, flags={"blurred"})
        said.append(view.sees_nothing)
    assert said == ["", "", "", "", "blurred", ""]


def test_view_visits_that_the_robot_left_at_once_say_nothing_about_the_lens() -> None:
    view = _view()
    for _ in range(9):
        _visit(view, counted=False, flags=set())
    assert view.sees_nothing == ""


@pytest.mark.parametrize(
    ("read", "bin_id"), [(["", "A-17", "A-17"], "A-17"), (["A-11", "A-17", "A-17"], "A-17"), (["", ""], "left")]
)
def test_name_bin_takes_the_label_that_most_frames_of_the_visit_show(read: list[str], bin_id: str) -> None:
    view = _view("{marker}")
    view.first = _message(read[0])
    view.markers += [label for label in read if label]
    seen = view.close()
    assert name_bin(view, seen, _message(read[0])) == bin_id
    assert view.markers == []
