"""Where commands arrive: checked, stored, confirmed to the broker, and given to a thread that carries them out.

```
delivery thread: receive -> parse -> admit -> outbox (accepted) ... outbox thread: stored -> PUBACK -> runner -> handler
```
Invariants:
- Nothing is begun before its acceptance is on disk, and the broker keeps every delivery of a command until then.
  Nothing is begun after its expiry, by the robot's clock, also after a restart. What comes twice is answered from
  memory.
- `receive` never blocks: the delivery thread goes on whatever a command costs.
- What a stranger can make the robot write is bounded: answers to refused and repeated commands have their own rate.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from edge_agent.commands.order import Order
from edge_agent.commands.parse import command_id_of, parse
from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.commands.schema import Command
from edge_agent.health.repeats import TokenBucket
from edge_agent.machine import read_clock
from edge_agent.messages import new_event_id, utc
from edge_agent.outbox.rows import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.commands.memory import Memory
    from edge_agent.commands.order import Done, Results, State
    from edge_agent.delivery.link import Delivery
    from edge_agent.health.telemetry import Telemetry
    from edge_agent.outbox.command_table import StoredCommand
    from edge_agent.outbox.outbox import Outbox

_LOG = logging.getLogger(__name__)

_RATE, _BURST = 10.0, 50.0
_ANSWER_RATE, _ANSWER_BURST = 2.0, 40.0
_PUT_TIMEOUT_S = 0.5
_DURABLE_S, _POLL_S = 5.0, 0.02
_BEGUN_ANEW = frozenset({"ping", "set", "recalibrate"})
"""What `Handler.resume` begins. Of the others it only says what came of them, which never comes too late."""
_MAX_REDELIVERED = 100
"""Deliveries of one command that wait for the disk; those of connections that are gone fall out first."""


class Desk:
    """Takes commands in and sends their results out. Any thread may call it.

    Args:
        memory: What is remembered.
        results: Builds the messages.
        outbox: Stores them.
        telemetry: Counts what was refused.
        give: Hands an accepted command to the thread that carries it out.
        clock: Monotonic seconds.
        wall_clock: Seconds since 1970 UTC.
    """

    def __init__(  # noqa: PLR0913 - both clocks are for tests
        self,
        memory: Memory,
        results: Results,
        outbox: Outbox,
        telemetry: Telemetry,
        *,
        give: Callable[[Order], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._memory = memory
        self._results = results
        self._outbox = outbox
        self._telemetry = telemetry
        self._give = give
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._rate = TokenBucket(_RATE, _BURST, _BURST, clock())
        self._answers = TokenBucket(_ANSWER_RATE, _ANSWER_BURST, _ANSWER_BURST, clock())
        self._claims: dict[str, tuple[Order, deque[Callable[[], None]]]] = {}
        self._without_room: set[str] = set()

    # The delivery thread's side.

    def receive(self, delivery: Delivery, settled: Callable[[], None]) -> bool:
        """Take what the broker delivered.

        Args:
            delivery: A message on a command topic.
            settled: Called, on any thread, when the broker need not keep it any longer.

        Returns:
            False when the outbox has no room for it: nothing was done, hand it over again later.
        """
        name = delivery.topic.rpartition("/")[2]
        try:
            order = self._order(name, delivery)
        except CommandError as exc:
            self._refuse(name, command_id_of(delivery.payload), exc)
            settled()
            return True
        with self._lock:
            if order.id in self._claims:  # not on disk yet: the broker must keep this one as well
                self._claims[order.id][1].append(settled)
                return True
            known = self._memory.find(order.id)
        if known is not None:
            self._answer_again(known)
            settled()
            return True
        try:
            return self._claim(order, settled)
        except CommandError as exc:
            self._refuse(name, order.id, exc)
            settled()
            return True

    def _order(self, name: str, delivery: Delivery) -> Order:
        command, now_s = parse(name, delivery.payload, retained=delivery.retained), self._clock()
        begin_by_s = now_s + command.expires_s - self._wall_clock()
        return Order(name, command, delivery.payload, received_mono_s=now_s, begin_by_mono_s=begin_by_s)

    def _claim(self, order: Order, settled: Callable[[], None]) -> bool:
        with self._lock:
            if not self._rate.take(self._clock()):
                raise CommandError(Reason.RATE_LIMITED, f"at most {_RATE:g} a second")
            self._memory.admit(order.command, self._wall_clock(), synchronised=read_clock().synchronised)
            entry = self._results.entry(order, "accepted")
            self._note(entry)
            self._claims[order.id] = order, deque([settled], maxlen=_MAX_REDELIVERED)
        if self._outbox.put(entry, timeout_s=0):
            self._without_room.clear()
            return True
        with self._lock:
            del self._claims[order.id]
            self._memory.drop(order.id)
            self._rate.tokens += 1  # it comes again
        if order.id not in self._without_room:
            self._without_room.add(order.id)
            self._telemetry.count("commands_not_stored")
        return False

    def _refuse(self, name: str, command_id: str | None, exc: CommandError) -> None:
        self._telemetry.count("commands_refused")
        _LOG.warning("command %.64s refused: %s: %s", name, exc.reason.code, exc)
        self._answer(self._results.refusal(name, command_id, exc))

    def _answer_again(self, known: StoredCommand) -> None:
        self._telemetry.count("commands_repeated")
        if known.result:
            now_s = self._wall_clock()
            topic = self._results.topic(known.name)
            self._answer(Entry(new_event_id(now_s), "result", topic, known.result))

    def _answer(self, entry: Entry) -> None:
        with self._lock:
            allowed = self._answers.take(self._clock())
        if not (allowed and self._outbox.put(entry, timeout_s=0)):
            self._telemetry.count("answers_not_stored")

    # The outbox's side.

    def stored(self, entries: Sequence[Entry]) -> None:
        """Begin what has become durable.

        Args:
            entries: Of one commit.
        """
        for entry in entries:
            for part in (entry, *entry.companions):
                if part.command is not None and part.command.state == "accepted":
                    self._begin(part.command.command_id)
                elif part.command is not None:
                    with self._lock:
                        self._note(part)

    def _begin(self, command_id: str) -> None:
        with self._lock:
            claim = self._claims.pop(command_id, None)
        if claim is not None:
            order, deliveries = claim
            for settled in deliveries:
                settled()
            self._give(order)

    # The side of the threads that carry commands out.

    def left_open(self) -> list[Order]:
        """Commands that an earlier run of the agent began and did not end.

        Returns:
            Them, to be given to a runner: what had begun first, then in the order of their acceptance.
        """
        found = []
        for row in sorted(self._memory.open(), key=_begun):
            try:
                command = parse(row.name, row.request, retained=False)
            except CommandError:  # written by another version: nothing of it can be resumed
                command = Command.model_construct(
                    command_id=row.command_id, actor="?", issued_at=utc(row.expires_s), expires_at=utc(row.expires_s)
                )
            begin_by_s = math.inf
            if row.state == "accepted" and row.name in _BEGUN_ANEW:
                begin_by_s = self._clock() + row.expires_s - self._wall_clock()
            order = Order(row.name, command, row.request, resumed=True, last=row.result, begin_by_mono_s=begin_by_s)
            found.append(order)
        return found

    def running(self, entry: Entry) -> None:
        """Store how far a command has come, and wait a moment until it is durable."""
        if self._outbox.put(entry, timeout_s=_PUT_TIMEOUT_S):
            until_s = self._clock() + _DURABLE_S
            while not self._outbox.is_stored and self._clock() < until_s:
                time.sleep(_POLL_S)

    def end(self, order: Order, outcome: Done | CommandError, stopping: Callable[[], bool]) -> None:
        """Store the one final result of a command.

        Args:
            order: The command.
            outcome: How it ended.
            stopping: Gives up waiting for room; then the command stays open and is settled at the next start.

        Raises:
            DeliveryError: The outbox has failed.
        """
        if isinstance(outcome, CommandError):
            state: State = "refused" if outcome.state == "refused" else "failed"
            entry = self._results.entry(order, state, outcome.words, reason=outcome.reason)
            _LOG.warning("command %s %s: %s: %s", order.name, state, outcome.reason.code, outcome)
        else:
            entry = self._results.done(order, outcome)
            _LOG.info("command %s by %s: %s", order.name, order.command.actor, outcome.words)
        self._telemetry.count("commands_done")
        while not self._outbox.put(entry, timeout_s=_PUT_TIMEOUT_S):
            if stopping():
                return

    def _note(self, entry: Entry) -> None:
        if entry.command is not None:
            self._memory.note(entry.command, entry.payload)


def _begun(row: StoredCommand) -> tuple[bool, str]:
    """Sorts open commands: ids of messages sort by time."""
    try:
        said = str(json.loads(row.result)["event_id"])
    except (ValueError, KeyError, TypeError):
        said = ""
    return row.state == "accepted", said
