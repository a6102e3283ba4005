"""A command on its way: what a handler gets, and what it gives back."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.machine import read_clock
from edge_agent.messages import ResultMessage, new_event_id, utc
from edge_agent.outbox.command_table import OPEN_STATES
from edge_agent.outbox.rows import CommandRecord, Entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from pydantic import JsonValue

    from edge_agent.commands.schema import Command
    from edge_agent.messages import Topics
    from edge_agent.outbox.rows import ImageEntry

    State = Literal["accepted", "running", "succeeded", "failed", "refused"]

_MAX_WORDS = 1000


@dataclass(frozen=True, slots=True)
class Order:
    """A command that was accepted.

    Attributes:
        name: What it asks for.
        command: Its fields.
        payload: As it came.
        resumed: It was accepted by an earlier run of the agent, which ended before it was over.
        last: The last message about it from then.
        received_mono_s: Monotonic time when it came.
        begin_by_mono_s: Monotonic time after which it must not begin: its expiry, as the clock stood when it came.
    """

    name: str
    command: Command
    payload: bytes = field(repr=False)
    resumed: bool = False
    last: bytes = field(default=b"", repr=False)
    received_mono_s: float = 0.0
    begin_by_mono_s: float = math.inf

    @property
    def id(self) -> str:
        """Of the command."""
        return self.command.command_id


@dataclass(frozen=True, slots=True)
class Done:
    """A command has succeeded.

    Attributes:
        words: What was done, for people.
        detail: The same for programs.
        settings: What the agent keeps from now on, as JSON.
        image: To be uploaded.
        companions: Messages that belong to it.
    """

    words: str = ""
    detail: dict[str, JsonValue] = field(default_factory=dict)
    settings: bytes | None = None
    image: ImageEntry | None = None
    companions: tuple[Entry, ...] = ()


class Progress(Protocol):
    """What a handler says and hears while it works."""

    @property
    def stopping(self) -> bool:
        """The agent is about to end: leave the command open; the next start goes on with it."""
        ...

    def say(self, share: float, words: str, detail: dict[str, JsonValue] | None = None) -> None:
        """Report how far the command has come.

        Args:
            share: 0..1.
            words: What is done now.
            detail: The same for programs; what `Order.last` shall tell after a restart.
        """
        ...

    def wait(self, timeout_s: float) -> bool:
        """Let time pass.

        Args:
            timeout_s: How long.

        Returns:
            Whether the agent is about to end.
        """
        ...


class Handler(ABC):
    """Carries out the commands of one name."""

    @abstractmethod
    def run(self, order: Order, progress: Progress) -> Done | None:
        """Carry a command out.

        Args:
            order: The command.
            progress: To report to.

        Returns:
            How it succeeded; None when it is answered in another way, or stays open because the agent ends.

        Raises:
            CommandError: It is refused or has failed.
            BintallyError: It has failed.
            OSError: The disk refused.
        """

    def tick(self, end: Callable[[Order, Done | CommandError], None]) -> None:  # noqa: B027 - most have nothing to do
        """End commands for which `run` returned None and whose answer has come; called a few times a second.

        Args:
            end: Stores a final result.
        """

    def resume(self, order: Order, progress: Progress) -> Done | None:
        """Settle a command that an earlier run of the agent left open; see `run`."""
        del order, progress
        raise CommandError(
            Reason.INTERRUPTED, "the agent ended before it was done; it is not begun again", state="failed"
        )


class Results:
    """Builds the messages about commands.

    Args:
        robot: Name of the robot.
        topics: Of the robot.
        wall_clock: Seconds since 1970 UTC.
    """

    def __init__(self, robot: str, topics: Topics, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._robot = robot
        self._topics = topics
        self._wall_clock = wall_clock

    def topic(self, name: str) -> str:
        """Where results of a command go."""
        return self._topics.result(name)

    def entry(
        self,
        order: Order,
        state: State,
        words: str = "",
        *,
        reason: Reason | None = None,
        progress: float | None = None,
        detail: dict[str, JsonValue] | None = None,
    ) -> Entry:
        """Say how far a command has come.

        Args:
            order: The command.
            state: How far.
            words: What happened.
            reason: Why it was refused or failed.
            progress: 0..1 while it runs.
            detail: For programs.

        Returns:
            The message with the record that is kept.
        """
        known_s = order.command.expires_s if state in OPEN_STATES else max(order.command.expires_s, self._wall_clock())
        record = CommandRecord(order.id, order.name, state, known_s, order.payload)
        message = self._message(
            order.name,
            order.id,
            state,
            words=_plain(words),
            reason=None if reason is None else reason.code,
            progress=None if progress is None else round(min(1.0, max(0.0, progress)), 4),
            detail=detail or {},
        )
        return Entry(message.event_id, "result", self._topics.result(order.name), message.to_bytes(), command=record)

    def done(self, order: Order, done: Done) -> Entry:
        """Say that a command has succeeded.

        Args:
            order: The command.
            done: What came of it.

        Returns:
            The message with everything that is stored beside it.
        """
        entry = self.entry(order, "succeeded", done.words, detail=done.detail)
        return Entry(
            entry.event_id,
            entry.kind,
            entry.topic,
            entry.payload,
            image=done.image,
            command=entry.command,
            settings=done.settings,
            companions=done.companions,
        )

    def refusal(self, name: str, command_id: str | None, exc: CommandError) -> Entry:
        """Refuse a command that is not remembered.

        Args:
            name: Last level of its topic.
            command_id: Whose it is, if that is known.
            exc: Why.

        Returns:
            The message.
        """
        message = self._message(name, command_id, "refused", words=_plain(exc.words), reason=exc.reason.code)
        return Entry(message.event_id, "result", self._topics.result(name), message.to_bytes())

    def _message(self, name: str, command_id: str | None, state: State, **said: Any) -> ResultMessage:  # noqa: ANN401 - fields of the message
        now_s = self._wall_clock()
        fields = {"reason": None, "words": "", "progress": None, "detail": {}, **said}
        return ResultMessage(
            event_id=new_event_id(now_s),
            robot=self._robot,
            command=name[:64],
            command_id=command_id,
            state=state,
            at=utc(now_s),
            clock_synchronised=read_clock().synchronised,
            **fields,
        )


def _plain(words: str) -> str:
    return words[:_MAX_WORDS].encode("utf-8", "replace").decode()
