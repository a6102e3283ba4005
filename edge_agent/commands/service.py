"""The commands' half of the agent: a desk, a thread for what is done in a moment, one for what takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.commands.order import Done, Handler
from edge_agent.commands.reasons import CommandError, Reason
from edge_agent.commands.schema import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.commands.desk import Desk
    from edge_agent.commands.exchange import Exchange
    from edge_agent.commands.order import Order, Progress, Results
    from edge_agent.commands.runner import Runner
    from edge_agent.commands.settings import Settings
    from edge_agent.commands.visit_requests import VisitRequest
    from edge_agent.messages import CountMessage
    from edge_agent.outbox.rows import Entry
    from edge_agent.visits.recorder import Recorder


class JobHandler(Handler):
    """Passes a command on to the thread for what takes long; one at a time.

    Args:
        jobs: That thread.
    """

    def __init__(self, jobs: Runner) -> None:
        self._jobs = jobs

    def run(self, order: Order, progress: Progress) -> None:
        """Pass it on; see `Handler.run`."""
        del progress
        if not self._jobs.offer(order):
            raise CommandError(Reason.BUSY)

    def resume(self, order: Order, progress: Progress) -> None:
        """Pass it on, behind others of the same age; see `Handler.resume`."""
        del progress
        self._jobs.give(order)


class Commands:
    """Everything about commands that the agent starts and stops.

    Args:
        desk: Takes commands in.
        quick: For what is done in a moment.
        jobs: For what takes long.
        exchange: To the agent's loop.
        settings: Those in force.
        recorder: Writes visits down for the jobs.
    """

    def __init__(
        self, desk: Desk, quick: Runner, jobs: Runner, exchange: Exchange, settings: Settings, recorder: Recorder
    ) -> None:
        self._recorder = recorder
        self.desk = desk
        self.exchange = exchange
        self.settings = settings
        self._quick = quick
        self._jobs = jobs

    @property
    def progress_s(self) -> float:
        """Monotonic time of the quick thread's last round."""
        return self._quick.worker.progress_s

    def start(self) -> None:
        """Start the threads, and settle what an earlier run of the agent left open."""
        left = self.desk.left_open()
        if not any(order.name == "recalibrate" for order in left):
            self._recorder.end()  # visits of a job whose result an earlier run stored, but did not live to remove them
        for order in left:
            if type(order.command) is Command:
                words = "it was begun by another version of the agent"
                self.desk.end(order, CommandError(Reason.INTERRUPTED, words, state="failed"), lambda: False)
            else:
                self._quick.give(order)
        self.settings.keep(self.settings.overrides)
        self._quick.worker.start()
        self._jobs.worker.start()
        self._recorder.worker.start()

    def finish(self, timeout_s: float) -> None:
        """End the threads. What is being carried out stays open and is settled at the next start.

        Args:
            timeout_s: How long that may take, for each.
        """
        self._quick.finish(timeout_s)
        self._jobs.finish(timeout_s)
        self._recorder.finish(timeout_s)


def visit_answer(results: Results) -> Callable[[VisitRequest, CountMessage | None, str], Entry]:
    """Make the function that answers requested visits.

    Args:
        results: Builds messages.

    Returns:
        For `VisitRequests`.
    """

    def answer(request: VisitRequest, message: CountMessage | None, why: str) -> Entry:
        order = request.order
        if order is None:
            raise ValueError("a request without a command has no answer")
        if message is None:
            return results.entry(order, "failed", why, reason=Reason.NO_USABLE_FRAME)
        fields = message.model_dump(mode="json")
        wanted = ("event_id", "bin_id", "count", "at_least", "label", "confidence", "confident", "verdict", "record")
        words = f"{message.label} in {message.bin_id}{'' if message.confident else ', unsure'}"
        return results.done(order, Done(words, {name: fields[name] for name in wanted}))

    return answer
