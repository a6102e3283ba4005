"""Which stages of the agent must make progress, and within what time: what the watchdog asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.parts import Parts

BUDGETS_S = {"loop": 20.0, "outbox": 20.0, "mqtt": 60.0, "commands": 120.0, "uploads": 600.0}


def stages(parts: Parts, loop_progress_s: Callable[[], float]) -> dict[str, tuple[Callable[[], float], float]]:
    """Name the stages.

    Args:
        parts: Of the agent.
        loop_progress_s: Monotonic time of the loop's last finished turn.

    Returns:
        By name: the monotonic time of the stage's last finished step, and how long ago that may be, in seconds.
    """
    found: dict[str, tuple[Callable[[], float], float]] = {
        "loop": (loop_progress_s, BUDGETS_S["loop"]),
        "outbox": (lambda: parts.outbox.progress_s, BUDGETS_S["outbox"]),
        "mqtt": (lambda: parts.publisher.worker.progress_s, BUDGETS_S["mqtt"]),
        "commands": (lambda: parts.commands.progress_s, BUDGETS_S["commands"]),
    }
    if parts.uploader is not None:
        worker = parts.uploader.worker
        found["uploads"] = (lambda: worker.progress_s, BUDGETS_S["uploads"])
    return found
