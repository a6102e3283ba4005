"""Settings that a command may change while the agent runs: the configuration's, with what was set over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.commands.schema import Overrides
    from edge_agent.config import AgentConfig, UploadsSection


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is in force.

    Attributes:
        threshold: Least confidence of a confident count; the bundle's own wins when it is higher.
        uploads: Which images leave the robot.
        log_level: What is logged.
    """

    threshold: float
    uploads: UploadsSection
    log_level: str


def tuning(config: AgentConfig, overrides: Overrides) -> Tuning:
    """Lay what was set over the configuration.

    Args:
        config: The agent's.
        overrides: What commands have set.

    Returns:
        The settings in force.
    """
    quota, uploads = config.uploads.quota, config.uploads
    limits = {name: value for name, value in overrides.given().items() if name in type(quota).model_fields}
    changes: dict[str, object] = {"quota": quota.model_copy(update=limits)}
    if overrides.audit_share is not None:
        changes["audit_share"] = overrides.audit_share
    return Tuning(
        threshold=overrides.threshold or 0.0,
        uploads=uploads.model_copy(update=changes),
        log_level=overrides.log_level or config.log.level,
    )
