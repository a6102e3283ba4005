"""When a camera looks at a bin: pure decisions, one call per frame, state of fixed size.

Four triggers. "photo": every picture is a visit of its own. "interval": a visit starts every so many seconds and takes
the next usable frames. "settle": the robot moved, then stands; once the picture is still for a few frames, a visit
starts, and no other one before the robot has moved again. "marker": a bin's label comes into view.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edge_agent.config import VisitSection

_LOOKS_PER_FRAME = 10
"""A visit gives up after this many frames were looked at for each one that it wanted."""


@dataclass(frozen=True, slots=True)
class VisitState:
    """Where a camera stands.

    Attributes:
        number: Visits opened so far.
        open: A visit is going on.
        looked: Frames looked at in the open visit, usable or not.
        taken: Usable frames taken in the open visit.
        next_at_s: "interval": when the next visit may start; None before the first frame.
        moved: "settle": the robot has moved since the last visit.
        still: "settle": frames in a row without motion.
        restless: "settle": frames in a row that were not still.
        marker: "marker": the label of the open visit, or of the last one.
        seen_s: "marker": when that label was last in view.
        left: "marker": another label came into view during the visit.
    """

    number: int = 0
    open: bool = False
    looked: int = 0
    taken: int = 0
    next_at_s: float | None = None
    moved: bool = True
    still: int = 0
    restless: int = 0
    marker: str = ""
    seen_s: float = 0.0
    left: bool = False


Trigger = Literal["photo", "interval", "settle", "marker"]


def begin(
    state: VisitState, rule: VisitSection, trigger: Trigger, *, at_s: float, motion: float, marker: str = ""
) -> VisitState:
    """Look at a frame before it is judged: does a visit start with it?

    Args:
        state: From the frame before.
        rule: From the configuration.
        trigger: The rule's, or the source's default.
        at_s: Time of the frame: monotonic for a camera, inside the file for a video.
        motion: Of the frame, grey levels.
        marker: The label in the frame, empty when none is read.

    Returns:
        The state with `open` saying whether this frame belongs to a visit.
    """
    if trigger == "settle":
        state = _follow_motion(state, rule, motion)
    if trigger == "marker" and marker:
        state = _follow_marker(state, rule, marker, at_s)
    if state.open:
        return replace(state, looked=state.looked + 1)
    if not _due(state, rule, trigger, at_s):
        return state
    return open_now(state, rule, at_s=at_s)


def open_now(state: VisitState, rule: VisitSection, *, at_s: float) -> VisitState:
    """Begin a visit with this frame.

    Args:
        state: Without an open visit.
        rule: From the configuration.
        at_s: As for `begin`.

    Returns:
        The state with an open visit.
    """
    return replace(
        state,
        number=state.number + 1,
        open=True,
        looked=1,
        taken=0,
        next_at_s=at_s + rule.interval_s,
        moved=False,
    )


def _follow_motion(state: VisitState, rule: VisitSection, motion: float) -> VisitState:
    """Note how still the picture is. A robot that creeps never moves much between two frames, but it is never still."""
    if motion < rule.still_below:
        return replace(state, still=state.still + 1, restless=0)
    restless = state.restless + 1
    moving = motion > rule.moving_above or restless >= rule.still_frames
    return replace(state, moved=state.moved or moving, still=0, restless=restless)


def interrupted(state: VisitState, trigger: Trigger) -> VisitState:
    """Go on after the camera was away: where the robot was meanwhile, nobody knows.

    Args:
        state: Without an open visit.
        trigger: As for `begin`.

    Returns:
        The state in which a robot that stands is visited. Another label is told apart by itself.
    """
    return replace(state, moved=True, still=0, restless=0) if trigger == "settle" else state


def _follow_marker(state: VisitState, rule: VisitSection, marker: str, at_s: float) -> VisitState:
    """Note a label that was read. A frame on which none is read says nothing: it may be blurred."""
    if marker == state.marker and (state.open or at_s - state.seen_s <= rule.marker_gone_s):
        return replace(state, seen_s=at_s)
    if state.open:
        return replace(state, left=True)
    return replace(state, marker=marker, seen_s=at_s, moved=True)


def _due(state: VisitState, rule: VisitSection, trigger: Trigger, at_s: float) -> bool:
    if trigger == "photo":
        return True
    if trigger == "interval":
        return state.next_at_s is None or at_s >= state.next_at_s
    if trigger == "marker":
        return state.moved and bool(state.marker)
    return state.moved and state.still >= rule.still_frames


def wanted_s(state: VisitState, trigger: Trigger) -> float:
    """Tell when the next frame can lead to something, if nobody asks for a visit.

    Args:
        state: After a frame.
        trigger: As for `begin`.

    Returns:
        Monotonic seconds; 0 where every frame counts: in an open visit, and where motion or a label begins one.
    """
    return state.next_at_s if trigger == "interval" and not state.open and state.next_at_s is not None else 0.0


def take(state: VisitState) -> VisitState:
    """Count a frame that passed the gate.

    Args:
        state: With an open visit.

    Returns:
        The state with one more frame taken.
    """
    return replace(state, taken=state.taken + 1)


def is_complete(state: VisitState, rule: VisitSection, trigger: Trigger) -> bool:
    """Tell whether the open visit ends with this frame.

    Args:
        state: After `begin` and, for a usable frame, `take`.
        rule: From the configuration.
        trigger: As for `begin`.

    Returns:
        True when enough frames were taken, too many were looked at, or the robot moves on.
    """
    if not state.open:
        return False
    if trigger == "photo" or state.taken >= rule.frames or state.looked >= rule.frames * _LOOKS_PER_FRAME:
        return True
    return leaves(state, trigger)


def leaves(state: VisitState, trigger: Trigger) -> bool:
    """Tell whether the robot leaves the bin with this frame, which then shows something else.

    Args:
        state: After `begin`, with an open visit.
        trigger: As for `begin`.
    """
    return (trigger == "settle" and state.moved) or (trigger == "marker" and state.left)


def close(state: VisitState) -> VisitState:
    """End the open visit.

    Args:
        state: With an open visit.

    Returns:
        The state between visits.
    """
    return replace(state, open=False, looked=0, taken=0, left=False)
