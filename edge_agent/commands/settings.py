"""What commands have set: kept in the outbox's file, laid over the configuration, shown in status."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.commands.schema import Overrides

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import JsonValue

    from edge_agent.commands.schema import Set

_LOG = logging.getLogger(__name__)


def kept_overrides(stored: bytes | None) -> Overrides:
    """Read what was set by earlier runs.

    Args:
        stored: From the outbox's file.

    Returns:
        The settings; none when another version wrote what this one does not understand.
    """
    try:
        return Overrides() if stored is None else Overrides.model_validate_json(stored)
    except ValidationError as exc:
        _LOG.error("the settings that commands made are not understood, and left out: %s", exc)
        return Overrides()


class Settings:
    """What commands have set, over what the configuration says. Any thread may read it.

    Args:
        kept: From the outbox's file.
        calibrated: The active bundle's threshold.
        apply: Puts settings into force.
    """

    def __init__(self, kept: Overrides, calibrated: Callable[[], float], apply: Callable[[Overrides], None]) -> None:
        self.overrides = kept
        self._calibrated = calibrated
        self._apply = apply

    def changed(self, command: Set) -> Overrides:
        """What would be set after a command.

        Args:
            command: The command.

        Returns:
            All settings, checked.

        Raises:
            CommandError: The threshold is too low.
        """
        calibrated = self._calibrated()
        if command.threshold is not None and command.threshold < calibrated:
            raise CommandError(Reason.THRESHOLD_TOO_LOW, f"got {command.threshold:g}, at least {calibrated:g}")
        kept = {name: value for name, value in self.overrides.given().items() if name not in command.reset}
        return Overrides.model_validate({**kept, **command.given()})

    def keep(self, overrides: Overrides) -> None:
        """Put settings into force that are about to become durable."""
        self.overrides = overrides
        self._apply(overrides)

    def shown(self) -> dict[str, JsonValue]:
        """What differs from the configuration, for status."""
        return self.overrides.given()
