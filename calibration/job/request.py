"""What a recalibration is asked to do: strict, because it comes from an operator's command."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from bundle.visits import MAX_LABEL
from calibration.assess import Wish

Share = Annotated[float, Field(ge=0.001, le=0.999)]
JOB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Strict(BaseModel):
    """Base of everything that is written to or read from a job's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Request(Strict):
    """A recalibration.

    Attributes:
        job_id: Names the job; the same id is carried out once.
        actor: Who asked for it.
        why: In the actor's words.
        asked_at: When.
        risk: Highest accepted share of wrong counts among the confident ones; None keeps the bundle's promise.
        confidence: Of the promise.
        coverage: Share of visits whose true count shall lie in the interval.
        false_alarm: Share of right records that may be contradicted.
        min_visits: Fewer than this and nothing is fitted.
        max_visits: The newest so many are used.
        max_bytes: Of photos; the newest visits within it are used.
        collect_s: How long to wait for visits; 0 takes what is there.
        watch_visits: How many visits to watch after activation; 0 watches none.
        watch_s: How long to wait for them.
        ranges: Re-fit INT8 ranges as well, where the robot has what that needs.
        labels: Counts that operators gave with the command, by bin. Each goes to one visit of its bin, the nearest in
            time to `asked_at`, and wins over a label that this visit has.
    """

    job_id: Annotated[str, Field(pattern=JOB_ID)]
    actor: Annotated[str, Field(min_length=1, max_length=200)]
    why: Annotated[str, Field(max_length=1000)] = ""
    asked_at: AwareDatetime
    risk: Share | None = None
    confidence: Share = 0.95
    coverage: Share = 0.9
    false_alarm: Share = 0.05
    min_visits: Annotated[int, Field(ge=20, le=100_000)] = 100
    max_visits: Annotated[int, Field(ge=20, le=100_000)] = 500
    max_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 1 << 30
    collect_s: Annotated[float, Field(ge=0, le=7 * 86_400)] = 0.0
    watch_visits: Annotated[int, Field(ge=0, le=100_000)] = 100
    watch_s: Annotated[float, Field(ge=0, le=7 * 86_400)] = 0.0
    ranges: bool = True
    labels: dict[str, Annotated[int, Field(ge=0, le=MAX_LABEL)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Request:
        if self.max_visits < self.min_visits:
            msg = f"max_visits must be at least min_visits, got {self.max_visits} and {self.min_visits}"
            raise ValueError(msg)
        return self

    def wish(self, promised_risk: float | None) -> Wish:
        """What the calibration is for.

        Args:
            promised_risk: Of the current bundle, if it promises anything.

        Returns:
            The wish; without any risk asked for or promised, 5 %.
        """
        risk = self.risk if self.risk is not None else promised_risk
        return Wish(0.05 if risk is None else risk, self.confidence, self.coverage, self.false_alarm)
