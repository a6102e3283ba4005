from __future__ import annotations

from edge_agent.config import VisitSection
from edge_agent.visits.visit import (
    Trigger,
    VisitState,
    begin,
    close,
    interrupted,
    is_complete,
    leaves,
    take,
    wanted_s,
)


def _visits(frames: list[tuple[float, float]], rule: VisitSection, trigger: Trigger) -> list[list[int]]:
    """Which frames each visit took, for frames of (time, motion) that all pass the gate."""
    state, visits, current = VisitState(), [], []
    for number, (at_s, motion) in enumerate(frames):
        state = begin(state, rule, trigger, at_s=at_s, motion=motion)
        if not state.open:
            continue
        state = take(state)
        current.append(number)
        if is_complete(state, rule, trigger):
            visits.append(current)
            current = []
            state = close(state)
    return visits


def test_visit_photo_each_frame_is_its_own() -> None:
    assert _visits([(0, 9), (0, 0), (0, 50)], VisitSection(), "photo") == [[0], [1], [2]]


def test_visit_interval_takes_frames_then_waits() -> None:
    rule = VisitSection(interval_s=1.0, frames=2)
    frames = [(n / 4, 0.0) for n in range(9)]
    assert _visits(frames, rule, "interval") == [[0, 1], [4, 5]]


def test_visit_wants_no_frame_between_two_intervals_alone() -> None:
    rule = VisitSection(interval_s=5.0, frames=1)
    opened = begin(VisitState(), rule, "interval", at_s=3.0, motion=0)
    assert wanted_s(VisitState(), "interval") == 0
    assert wanted_s(opened, "interval") == 0
    assert wanted_s(close(take(opened)), "interval") == 8.0
    assert wanted_s(close(take(opened)), "settle") == wanted_s(close(take(opened)), "marker") == 0


def test_visit_settle_waits_for_motion_between_visits() -> None:
    rule = VisitSection(frames=2, still_frames=2, moving_above=6, still_below=2)
    motion = [0, 0, 0, 0, 0, 9, 9, 0, 0, 0, 0]
    frames = [(float(n), float(m)) for n, m in enumerate(motion)]
    assert _visits(frames, rule, "settle") == [[1, 2], [8, 9]]


def test_visit_settle_motion_ends_the_open_visit() -> None:
    rule = VisitSection(frames=5, still_frames=1, moving_above=6, still_below=2)
    frames = [(0.0, 0.0), (1.0, 0.0), (2.0, 9.0), (3.0, 0.0)]
    assert _visits(frames, rule, "settle")[0] == [0, 1, 2]


def test_visit_without_usable_frames_gives_up() -> None:
    rule, state = VisitSection(interval_s=1, frames=2), VisitState()
    looked = 0
    while True:
        state = begin(state, rule, "interval", at_s=0.01 * looked, motion=0)
        looked += 1
        if is_complete(state, rule, "interval"):
            break
    assert looked == 20
    assert state.taken == 0


def _marked(labels: str, rule: VisitSection) -> list[tuple[str, list[int]]]:
    """Visits by label, for one frame a second; a point is a frame on which none was read."""
    state, visits, taken = VisitState(), [], list[int]()
    for number, label in enumerate(labels):
        marker = label.strip(".")
        state = begin(state, rule, "marker", at_s=float(number), motion=0.0, marker=marker)
        if not state.open:
            continue
        if not leaves(state, "marker"):
            state = take(state)
            taken.append(number)
        if is_complete(state, rule, "marker"):
            visits.append((state.marker, taken))
            taken = []
            state = close(state)
    return visits


def test_visit_marker_each_label_is_visited_once_while_it_is_in_view() -> None:
    assert _marked("..aaaaaa", VisitSection(frames=2)) == [("a", [2, 3])]


def test_visit_marker_frames_of_the_next_bin_are_not_taken_for_this_one() -> None:
    assert _marked("aabbbb", VisitSection(frames=4)) == [("a", [0, 1])]
    assert _marked("aabbbbb", VisitSection(frames=3)) == [("a", [0, 1]), ("b", [3, 4, 5])]


def test_visit_marker_that_cannot_be_read_for_a_moment_ends_nothing() -> None:
    assert _marked("a..b", VisitSection(frames=3)) == [("a", [0, 1, 2])]


def test_visit_marker_that_was_out_of_sight_for_long_is_visited_again() -> None:
    rule = VisitSection(frames=1, marker_gone_s=3)
    assert _marked("a..a....a", rule) == [("a", [0]), ("a", [8])]


def _stand(state: VisitState, rule: VisitSection) -> VisitState:
    """A still camera, whose visit is closed when one opened."""
    for number in range(2 * rule.still_frames):
        state = begin(state, rule, "settle", at_s=float(number), motion=0.0)
        state = close(state) if state.open else state
    return state


def test_visit_settle_bin_after_a_lost_camera_is_visited_though_nothing_was_seen_to_move() -> None:
    rule = VisitSection()
    state = _stand(VisitState(), rule)
    assert (state.number, _stand(state, rule).number) == (1, 1)
    assert _stand(interrupted(state, "settle"), rule).number == 2


def test_visit_marker_same_label_after_a_lost_camera_is_not_visited_again() -> None:
    state = VisitState(marker="A-1", seen_s=3.0)
    assert interrupted(state, "marker") == state


def test_visit_settle_robot_that_creeps_to_the_next_bin_is_seen_to_move() -> None:
    rule = VisitSection()
    state = _stand(VisitState(), rule)
    for number in range(20):
        state = begin(state, rule, "settle", at_s=float(number), motion=(rule.still_below + rule.moving_above) / 2)
    assert _stand(state, rule).number == 2


def test_visit_settle_one_restless_frame_is_no_move() -> None:
    rule = VisitSection()
    state = begin(_stand(VisitState(), rule), rule, "settle", at_s=0.0, motion=rule.moving_above - 0.1)
    assert _stand(state, rule).number == 1
