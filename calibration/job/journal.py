"""The record of a job: what it was asked, where it stands, what it found and why it ended so. Durable at every step.

It is the audit record as well. A job that was killed goes on from here; the words in `State` say what may be on disk:

```
accepted     nothing yet
collecting   nothing yet
fitting      a half-written candidate, swept at the next start
checking     a candidate in the job's folder
activating   the store holds the old or the new bundle; the new one is the goal
watching     the store holds the new bundle
reverting    the store holds the new or the old bundle; the old one is the goal
activated, refused, reverted, failed     over; nothing is written any more
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from bundle.durable import write_json
from bundle.errors import InputError
from bundle.manifest import Calibration, Sha256  # noqa: TC001 - pydantic evaluates the annotations
from calibration.job.request import Request, Strict

if TYPE_CHECKING:
    from pathlib import Path

State = Literal[
    "accepted",
    "collecting",
    "fitting",
    "checking",
    "activating",
    "watching",
    "reverting",
    "activated",
    "refused",
    "reverted",
    "failed",
]
FINAL: frozenset[State] = frozenset({"activated", "refused", "reverted", "failed"})
JOURNAL_NAME = "job.json"
MAX_ATTEMPTS = 5


class Step(Strict):
    """When the job reached a state."""

    state: State
    at: AwareDatetime
    words: str = ""


class Check(Strict):
    """One thing that a candidate had to pass.

    Attributes:
        name: Of the check.
        passed: Whether it did.
        words: What was measured, and what was asked.
    """

    name: str
    passed: bool
    words: str


class Version(Strict):
    """A bundle before or after."""

    digest: Sha256
    label: str
    calibration: Calibration


class Band(Strict):
    """What the visits before the activation looked like, from which those after it are predicted.

    Attributes:
        visits: How many there were.
        unsure: Of how many of them the candidate was unsure.
        agreeing: On how many the old and the new bundle counted the same.
    """

    visits: Annotated[int, Field(ge=1)]
    unsure: Annotated[int, Field(ge=0)]
    agreeing: Annotated[int, Field(ge=0)]


class Watched(Strict):
    """What the visits after the activation looked like.

    Attributes:
        visits: How many there were.
        unsure: As in `Band`.
        agreeing: As in `Band`.
        labelled_confident: Confident ones of which a person gave the count.
        wrong: How many of those were wrong.
    """

    visits: int
    unsure: int
    agreeing: int
    labelled_confident: int = 0
    wrong: int = 0


class Journal(Strict):
    """The whole record; see the module's text for the states.

    Attributes:
        format_version: Always 1.
        request: What was asked.
        state: Where the job stands.
        attempts: How often it was started.
        steps: Every state with its time.
        before: The bundle that was active.
        after: The candidate.
        collected: Figures about the visits.
        did: What was re-fitted.
        did_not: What was not, and why.
        checks: What the candidate had to pass.
        last_visit: Later visits are watched: the newest one that was learned from, or, in a folder that grows, the
            newest one at the activation.
        band: What the visits after activation are held against.
        watched: What they looked like.
        reason: Why it ended so.
    """

    format_version: Literal[1] = 1
    request: Request
    state: State = "accepted"
    attempts: Annotated[int, Field(ge=0)] = 0
    steps: tuple[Step, ...] = ()
    before: Version | None = None
    after: Version | None = None
    collected: dict[str, int] = Field(default_factory=dict)
    did: tuple[str, ...] = ()
    did_not: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    last_visit: str = ""
    band: Band | None = None
    watched: Watched | None = None
    reason: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL


def write_journal(folder: Path, journal: Journal) -> None:
    """Write the record, whole or not at all.

    Args:
        folder: Of the job; must exist.
        journal: The record.

    Raises:
        OSError: The disk refused.
    """
    write_json(folder / JOURNAL_NAME, journal.model_dump(mode="json"))


def read_journal(folder: Path) -> Journal | None:
    """Read the record.

    Args:
        folder: Of the job.

    Returns:
        The record, or None when the job does not exist.

    Raises:
        InputError: It is damaged.
    """
    file = folder / JOURNAL_NAME
    if not file.is_file():
        return None
    try:
        return Journal.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as exc:
        raise InputError(
            f"{file} is damaged", got=str(exc).splitlines()[0], fix="Remove the folder and ask for a new job."
        ) from exc


def summary(journal: Journal) -> dict[str, Any]:
    """The job's result as one flat object for programs.

    Args:
        journal: Of a job that is over.

    Returns:
        JSON types only.
    """
    content = journal.model_dump(mode="json", exclude={"request", "steps", "format_version", "attempts"})
    return {"job_id": journal.request.job_id, "final": True, **content}
