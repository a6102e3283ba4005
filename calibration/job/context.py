"""Where a job works, what it knows, and how it tells the world."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bundle import images
from bundle.camera import Rectifier
from bundle.engines.choose import open_engine
from bundle.preprocess import resize
from bundle.store import Store
from calibration.job.journal import Journal, Step, write_journal
from calibration.observe import observe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from bundle.camera import CameraProfile
    from bundle.verify import Bundle
    from calibration.job.collect import Clock
    from calibration.job.journal import State
    from calibration.observe import Observed
    from calibration.visits import Visit

JOBS_NAME = "recalibrations"
CANDIDATE = "candidate"
CACHE_NAME = ".ranges"
"""Beside the jobs; no job can be called so."""
_PROGRESS = {
    "accepted": 0.0,
    "collecting": 0.05,
    "fitting": 0.4,
    "checking": 0.7,
    "activating": 0.8,
    "watching": 0.85,
    "reverting": 0.95,
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a job works, and how it tells the world.

    Attributes:
        store: Root of the robot's bundle store; jobs are kept beside the bundles.
        visits: Folder of visits.
        clock: Of the job.
        now: Aware UTC time.
        emit: Takes one flat object per line of progress.
        engine: What runs bundles.
        profile: Of the camera, applied to every photo; None when photos are rectified already.
    """

    store: Path
    visits: Path
    clock: Clock
    now: Callable[[], datetime]
    emit: Callable[[dict[str, Any]], None]
    engine: str = "auto"
    profile: CameraProfile | None = None

    def job_folder(self, job_id: str) -> Path:
        """Folder of a job.

        Args:
            job_id: Of the request.

        Returns:
            The folder; it need not exist.
        """
        return self.store / JOBS_NAME / job_id


@dataclass(slots=True)
class Job:
    """One run of a job.

    Attributes:
        around: Where it works.
        journal: Its record as it stands; what is not written yet is written with the next state.
        folder: Of the job.
        store: The robot's bundles.
        rectifier: Of the camera's profile, None without one.
    """

    around: Surroundings
    journal: Journal
    folder: Path = field(init=False)
    store: Store = field(init=False)
    rectifier: Rectifier | None = field(init=False)

    def __post_init__(self) -> None:
        """Derive the paths, and the remap table once."""
        self.folder = self.around.job_folder(self.journal.request.job_id)
        self.store = Store(self.around.store)
        profile = self.around.profile
        self.rectifier = None if profile is None else Rectifier(profile)

    def note(self, **changes: object) -> None:
        """Change the record without writing it yet.

        Args:
            **changes: Fields of the journal.
        """
        self.journal = self.journal.model_copy(update=changes)

    def enter(self, state: State, words: str = "", **changes: object) -> None:
        """Reach a state: the record is written first, then the world is told.

        Args:
            state: The new one.
            words: About it.
            **changes: Fields of the journal.

        Raises:
            OSError: The record cannot be written.
        """
        step = Step(state=state, at=self.around.now(), words=words)
        self.note(state=state, steps=(*self.journal.steps, step), **changes)
        write_journal(self.folder, self.journal)
        self.tell(words)

    def tell(self, words: str, share: float = 0.0) -> None:
        """Tell how far the job is.

        Args:
            words: What happens.
            share: Added to the state's own progress.
        """
        state = self.journal.state
        progress = 1.0 if self.journal.is_over else _PROGRESS[state] + share
        self.around.emit(
            {"job_id": self.journal.request.job_id, "state": state, "progress": round(progress, 3), "words": words}
        )

    def end(self, state: State, reason: str) -> None:
        """Reach a final state; the candidate's folder goes.

        Args:
            state: A final one.
            reason: Why.

        Raises:
            OSError: The record cannot be written.
        """
        shutil.rmtree(self.folder / CANDIDATE, ignore_errors=True)
        self.enter(state, reason, reason=reason)

    def observe(self, bundle: Bundle, visits: Sequence[Visit]) -> tuple[Observed, str]:
        """Run a bundle over visits.

        Args:
            bundle: Verified.
            visits: At least one.

        Returns:
            What it made of them, and the role of the model that ran.

        Raises:
            EngineError: No engine runs the bundle here.
            InputError: No visit could be read.
        """
        prepare = None if self.rectifier is None else self.rectifier.apply
        with open_engine(bundle, engine=self.around.engine, threads=1) as engine:
            return observe(visits, bundle.manifest, engine, prepare=prepare), engine.role

    def pictures(self, bundle: Bundle, visit: Visit) -> list[NDArray[np.uint8]]:
        """Load the frames of a visit.

        Args:
            bundle: Says at what size.
            visit: Whose frames.

        Returns:
            Each uint8, (h, w, 3), BGR, at the network's size.

        Raises:
            InputError: A frame cannot be read.
        """
        photos = [images.read(frame) for frame in visit.frames]
        if self.rectifier is not None:
            photos = [self.rectifier.apply(photo) for photo in photos]
        return [resize(photo, bundle.manifest.preprocessing) for photo in photos]
