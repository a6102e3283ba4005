from __future__ import annotations

from edge_agent.config import VisitSection
from edge_agent.visit import Trigger, VisitState, begin, close, is_complete, take


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
