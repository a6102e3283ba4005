"""Which commands this robot has had: so that each is carried out once, in bounded memory, whatever the clock does.

- A command that is remembered is answered again, never begun again.
- One may be forgotten when it is over and has expired: its expiry refuses it from then on. With a later expiry the same
  id would be a new command: who sends one again must not do that. The latest expiry of what was forgotten is kept, so
  that a clock that goes back does not bring an old command back.
- There is room for so many. Without room, new commands are refused; nothing is forgotten early.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.commands.schema import MAX_LIFETIME_S
from edge_agent.outbox.command_table import GRACE_S, OPEN_STATES, StoredCommand, short_result

if TYPE_CHECKING:
    from edge_agent.commands.schema import Command
    from edge_agent.outbox.command_table import Remembered
    from edge_agent.outbox.rows import CommandRecord

MAX_COMMANDS = 4096
SKEW_S = 60.0
"""How far the clocks of sender and robot may differ when a command is fresh."""


class Memory:
    """Commands that are remembered. Not locked; see `edge_agent.commands.desk`.

    Args:
        remembered: From the outbox's file.
        max_commands: Room.
    """

    def __init__(self, remembered: Remembered, *, max_commands: int = MAX_COMMANDS) -> None:
        self._known = {row.command_id: row for row in remembered.commands}
        self._forgotten_s = remembered.forgotten_s
        self._refuse_before_s = remembered.refuse_before_s
        self._max_commands = max_commands

    def __len__(self) -> int:
        return len(self._known)

    def find(self, command_id: str) -> StoredCommand | None:
        """Look a command up."""
        return self._known.get(command_id)

    def open(self) -> list[StoredCommand]:
        """Commands without a final result."""
        return [row for row in self._known.values() if row.is_open]

    def admit(self, command: Command, now_s: float, *, synchronised: bool | None) -> None:
        """Check that a command which is not remembered may be carried out.

        Args:
            command: It.
            now_s: Wall clock.
            synchronised: Whether the wall clock is kept by NTP.

        Raises:
            CommandError: It is too old, too new, may have been carried out already, or there is no room.
        """
        issued_s, expires_s = command.issued_at.timestamp(), command.expires_s
        if expires_s <= now_s:
            raise CommandError(Reason.EXPIRED, f"{now_s - expires_s:.0f} s ago{_clock(synchronised)}")
        if issued_s > now_s + SKEW_S:
            raise CommandError(Reason.FUTURE, f"by {issued_s - now_s:.0f} s{_clock(synchronised)}")
        # By a right clock no mark lies further ahead: such a one was made while the clock was wrong.
        ahead_s = SKEW_S if synchronised else math.inf
        if expires_s <= self._forgotten_s <= now_s + MAX_LIFETIME_S + ahead_s:
            raise CommandError(Reason.EXPIRED, "commands with this expiry are forgotten; the robot's clock went back")
        if issued_s <= self._refuse_before_s <= now_s + ahead_s:
            raise CommandError(Reason.RECORD_LOST)
        self._forget(now_s)
        if len(self._known) >= self._max_commands:
            raise CommandError(Reason.MEMORY_FULL, f"{len(self._known)} of {self._max_commands}")

    def note(self, record: CommandRecord, result: bytes) -> None:
        """Remember how far a command has come.

        Args:
            record: Of the command.
            result: The message that says so.
        """
        request = record.request if record.state in OPEN_STATES else b""
        self._known[record.command_id] = StoredCommand(
            record.command_id, record.name, record.state, record.expires_s, request, short_result(result)
        )

    def drop(self, command_id: str) -> None:
        """Forget a command that could not be stored, and so was never begun."""
        self._known.pop(command_id, None)

    def _forget(self, now_s: float) -> None:
        gone = [row for row in self._known.values() if not row.is_open and row.expires_s < now_s - GRACE_S]
        for row in gone:
            del self._known[row.command_id]
            self._forgotten_s = max(self._forgotten_s, row.expires_s)


def _clock(synchronised: bool | None) -> str:  # noqa: FBT001 - what the kernel says
    return "; the robot's clock is not synchronised" if synchronised is False else ""
