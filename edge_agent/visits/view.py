"""What is remembered of one camera between two frames: the states of gate and visit, and what the open visit gathered.

Of fixed size: two small states, the posteriors of at most one visit and its sharpest picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mode
from typing import TYPE_CHECKING

from edge_agent.capture.gate import GateState
from edge_agent.visits.decide import Rescans
from edge_agent.visits.visit import VisitState, begin, close, open_now

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bundle.counter import Counter
    from edge_agent.capture.camera import Camera
    from edge_agent.capture.frames import FrameMessage
    from edge_agent.commands.visit_requests import VisitRequest
    from edge_agent.config import CameraSection, VisitSection
    from edge_agent.visits.visit import Trigger


_FRUITLESS_VISITS = 5
"""So many visits in a row without a frame that counts: the camera sees nothing, whatever the reason."""


@dataclass(frozen=True, slots=True)
class Best:
    """The sharpest frame of the open visit so far, kept for a human to look at.

    Attributes:
        sharpness: Of the picture.
        image_bgr: uint8, (H, W, 3), BGR, 0..255: a copy.
        encoded: The undecoded file behind it, empty when there is none.
    """

    sharpness: float
    image_bgr: NDArray[np.uint8]
    encoded: bytes


@dataclass(slots=True)
class Look:
    """What was found about a frame before its step.

    Attributes:
        flags: What the gate found.
        usable: It counts.
        frozen: The camera repeats its picture.
        logits: float32, (K,), when it went through the engine together with others.
    """

    flags: set[str]
    usable: bool
    frozen: bool = False
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a visit that is over has gathered.

    Attributes:
        number: Of the visit.
        marker: The label that it belongs to, or that most of its frames show, empty without one.
        request: Who asked for it.
        counter: What it was counted with; None when no frame was ever judged.
        posteriors: float64, (K,) each, of its usable frames.
        flags: What the gate found on any frame.
        first: Its first usable frame.
        best: Its sharpest frame.
        recorded: Files of its frames, for a recalibration.
    """

    number: int
    marker: str
    request: VisitRequest | None
    counter: Counter | None
    posteriors: list[NDArray[np.float64]]
    flags: set[str]
    first: FrameMessage | None
    best: Best | None
    recorded: list[bytes]


@dataclass(slots=True)
class View:
    """What is remembered of one camera.

    Attributes:
        settings: Of the camera.
        trigger: What begins a visit.
        template: Of the bin's id.
        request: Who asked for the open visit.
        counter: What the open visit is counted with from its first frame to its last.
        blind: What keeps the camera from seeing anything.
        rescans: Bins that should be looked at again.
        look: What was found about the frame whose step comes next.
        fruitless: Visits in a row of which no frame could be counted.
        spoilt: Why the last of them could not.
    """

    settings: CameraSection
    trigger: Trigger
    template: str
    gate: GateState = field(default_factory=GateState)
    visit: VisitState = field(default_factory=VisitState)
    request: VisitRequest | None = None
    counter: Counter | None = None
    posteriors: list[NDArray[np.float64]] = field(default_factory=list)
    markers: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    first: FrameMessage | None = None
    best: Best | None = None
    recorded: list[bytes] = field(default_factory=list)
    blind: tuple[str, ...] = ()
    rescans: Rescans = field(default_factory=Rescans)
    look: Look | None = None
    fruitless: int = 0
    spoilt: str = ""

    @property
    def sees_nothing(self) -> str:
        """What keeps the camera from seeing anything, empty when it sees.

        A blur alone is normal while the robot moves; it keeps the camera blind when visit after visit is lost to it.
        """
        return ", ".join(self.blind) or (self.spoilt if self.fruitless >= _FRUITLESS_VISITS else "")

    @property
    def rule(self) -> tuple[VisitSection, Trigger]:
        """When the open visit is complete."""
        rule, request = self.settings.visit, self.request
        if request is None:
            return rule, self.trigger
        if request.frames is None:
            return rule, "photo" if self.trigger == "photo" else "interval"
        return rule.model_copy(update={"frames": request.frames}), "interval"

    def begin(self, request: VisitRequest | None, message: FrameMessage) -> None:
        """Look at a frame: a visit opens with it if one is due, or if somebody asks for one.

        Args:
            request: Who asks; None while a visit is open.
            message: The frame.
        """
        rule = self.settings.visit
        at_s = message.captured_mono_s if message.position_s is None else message.position_s
        if request is not None:
            self.request = request
            self.visit = open_now(self.visit, rule, at_s=at_s)
            return
        self.visit = begin(
            self.visit, rule, self.trigger, at_s=at_s, motion=message.stats.motion, marker=message.marker
        )

    def close(self) -> Seen:
        """End the open visit.

        Returns:
            What it has gathered.
        """
        seen = Seen(
            number=self.visit.number,
            marker=self.visit.marker or (mode(self.markers) if self.markers else ""),
            request=self.request,
            counter=self.counter,
            posteriors=self.posteriors,
            flags=self.flags,
            first=self.first,
            best=self.best,
            recorded=self.recorded,
        )
        if seen.first is not None:
            self.fruitless = 0
        elif seen.flags:
            self.fruitless, self.spoilt = self.fruitless + 1, ", ".join(sorted(seen.flags))
        self.posteriors, self.markers, self.flags, self.recorded = [], [], set(), []
        self.first, self.best = None, None
        self.visit, self.request, self.counter = close(self.visit), None, None
        return seen


def view_of(settings: CameraSection, camera: Camera) -> View:
    """Begin to remember a camera.

    Args:
        settings: Of the camera.
        camera: The camera.

    Returns:
        A view without an open visit.
    """
    is_folder = camera.kind == "folder"
    trigger = settings.visit.trigger or ("photo" if is_folder else "interval")
    usual = "{stem}" if is_folder else "{camera}"
    template = settings.bin_id or ("{marker}" if trigger == "marker" else usual)
    return View(settings=settings, trigger=trigger, template=template)
