"""A thread that carries commands out, one after the other."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from bundle.errors import BintallyError, BundleError, DeliveryError, EngineError
from edge_agent.backoff import Backoff
from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.threads import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import JsonValue

    from edge_agent.commands.desk import Desk
    from edge_agent.commands.order import Done, Handler, Order, Results

_WAIT_S = 0.25
_PAUSE_S = (0.25, 10.0)


class Runner:
    """Carries out the commands that it is given.

    Args:
        name: Of the thread.
        handlers: By the name of the command.
        desk: Takes the results.
        results: Builds them.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        handlers: Mapping[str, Handler],
        desk: Callable[[], Desk],
        results: Results,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.handlers = handlers
        self._desk = desk
        self._results = results
        self._clock = clock
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._current: Order | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._waiting = 0
        self.worker = Worker(name, self._work, backoff=Backoff(*_PAUSE_S), stop=self._stop, clock=clock)

    def give(self, order: Order) -> None:
        """Carry a command out when those before it are done."""
        with self._lock:
            self._waiting += 1
        self._orders.put(order)

    def offer(self, order: Order) -> bool:
        """Carry a command out now.

        Args:
            order: The command.

        Returns:
            False when another one is being carried out: it was not taken.
        """
        with self._lock:
            if self._waiting:
                return False
            self._waiting = 1
        self._orders.put(order)
        return True

    def finish(self, timeout_s: float) -> bool:
        """End the thread; a command that it is at stays open.

        Args:
            timeout_s: How long that may take.

        Returns:
            Whether it ended.
        """
        self._stop.set()
        return self.worker.join(timeout_s)

    def _work(self) -> None:
        if self._current is not None:
            self._settle(CommandError(Reason.INTERNAL, state="failed"))
        while not self._stop.is_set():
            self.worker.tick()
            for handler in self.handlers.values():
                handler.tick(self._end)
            try:
                self._current = self._orders.get(timeout=_WAIT_S)
            except queue.Empty:
                continue
            self._carry_out(self._current)
            self.worker.succeeded()

    def _carry_out(self, order: Order) -> None:
        handler = self.handlers[order.name]
        if self._clock() >= order.begin_by_mono_s:
            words = "it waited for room on the disk, the command before it or the agent's start, and was not begun"
            self._settle(CommandError(Reason.EXPIRED, words))
            return
        try:
            outcome = (handler.resume if order.resumed else handler.run)(order, _Saying(self, order))
        except DeliveryError:
            raise
        except CommandError as exc:
            self._settle(exc)
        except (BundleError, EngineError) as exc:
            self._settle(CommandError(Reason.BUNDLE_REFUSED, str(exc), state="failed"))
        except BintallyError as exc:
            self._settle(CommandError(Reason.INTERNAL, str(exc), state="failed"))
        except OSError as exc:
            self._settle(CommandError(Reason.DISK, f"{exc.filename or 'the disk'}: {exc.strerror}", state="failed"))
        else:
            self._settle(outcome)

    def _end(self, order: Order, outcome: Done | CommandError) -> None:
        self._desk().end(order, outcome, self._waits)

    def _waits(self) -> bool:
        """A full disk holds this thread up; that is no reason to kill the agent."""
        self.worker.tick()
        return self._stop.is_set()

    def _settle(self, outcome: Done | CommandError | None) -> None:
        order, self._current = self._current, None
        with self._lock:
            self._waiting -= 1
        if order is not None and outcome is not None:
            self._end(order, outcome)

    def say(self, order: Order, share: float, words: str, detail: dict[str, JsonValue] | None) -> None:
        """Report how far a command has come; see `Progress.say`."""
        self._desk().running(self._results.entry(order, "running", words, progress=share, detail=detail))

    def pause(self, timeout_s: float) -> bool:
        """Let time pass; see `Progress.wait`."""
        self.worker.tick()
        return self._stop.wait(timeout_s)

    @property
    def stopping(self) -> bool:
        """The thread shall end."""
        return self._stop.is_set()


class _Saying:
    """`Progress` of one order."""

    def __init__(self, runner: Runner, order: Order) -> None:
        self._runner = runner
        self._order = order

    @property
    def stopping(self) -> bool:
        return self._runner.stopping

    def say(self, share: float, words: str, detail: dict[str, JsonValue] | None = None) -> None:
        self._runner.say(self._order, share, words, detail)

    def wait(self, timeout_s: float) -> bool:
        return self._runner.pause(timeout_s)
