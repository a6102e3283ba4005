"""cmd/recalibrate: the job as a child process, which gives way to everything else; this robot's visits, and its words.

The agent knows the job's interface alone (docs/calibration.md): a request on stdin, one JSON object per line on stdout,
the last one final. The child dies with the agent; the same job goes on at the next start, because its id is the
command's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from bundle.errors import BintallyError
from edge_agent.commands.order import Done, Handler
from edge_agent.commands.reasons import CommandError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import JsonValue

    from edge_agent.commands.bundles import Switch
    from edge_agent.commands.order import Order, Progress
    from edge_agent.commands.schema import Recalibrate
    from edge_agent.visits.recorder import Recorder

_LOG = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
# PR_SET_PDEATHSIG (1) with SIGKILL (9): a job whose agent was killed would hold the store's lock against its successor.
_WITH_AGENT = (
    "import ctypes,os,sys;ctypes.CDLL(None).prctl(1,9);os.execv(sys.executable,[sys.executable,*sys.argv[1:]])"
)
_POLL_S = 0.5
_SAY_EVERY_S = 10.0
_KILL_WAIT_S = 10.0
_MAX_LINE = 1 << 20
_MAX_DETAIL = 20_000
_SWITCHED = frozenset({"watching", "reverted"})
_TOLD = ("state", "reason", "did", "did_not", "before", "after")


class RecalibrateHandler(Handler):
    """Runs one job from its beginning to its end.

    Args:
        switch: Store and loop.
        recorder: Writes visits for the job.
        engine: What runs bundles.
        moved: Which camera has moved against its profile, in words; empty when none has.
        command: How the job is started; tests name another program.
    """

    def __init__(
        self,
        switch: Switch,
        recorder: Recorder,
        engine: str,
        moved: Callable[[], str] = str,
        command: tuple[str, ...] = (sys.executable, "-c", _WITH_AGENT, "-m", "bintally", "recalibrate"),
    ) -> None:
        self._switch = switch
        self._recorder = recorder
        self._engine = engine
        self._moved = moved
        self._command = command

    def run(self, order: Order, progress: Progress) -> Done | None:
        """Run the job; see `Handler.run`."""
        try:
            self._check(order)
            final = self._follow(order, progress, self._recorder.begin(order.id))
        except BaseException:
            self._recorder.end()
            raise
        if progress.stopping and final is None:
            return None
        self._recorder.end()
        self._switch.follow_store()
        if final is None:
            raise CommandError(Reason.JOB_FAILED, "its last words stand in the robot's log", state="failed")
        if final.get("state") != "activated":
            state = "refused" if final.get("state") == "refused" else "failed"
            raise CommandError(Reason.NOT_BETTER, f"{final.get('state')}: {final.get('reason', '')}", state=state)
        detail: dict[str, JsonValue] = {name: final[name] for name in _TOLD if name in final}
        if len(json.dumps(detail)) > _MAX_DETAIL:
            detail = {"state": "activated"}
        return Done(str(final.get("reason", "")), detail)

    resume = run

    def _check(self, order: Order) -> None:
        """Refuse what cannot work. One that had begun goes on: its switch may be made, and must be watched."""
        self._switch.store()
        if order.resumed:
            return
        _require_installed(ranges=cast("Recalibrate", order.command).ranges)
        if moved := self._moved():
            raise CommandError(Reason.CAMERA_MOVED, moved)
        self._switch.follow_store()  # the job begins with the store's bundle, and its visits are to be that one's

    def _follow(self, order: Order, progress: Progress, visits: Path) -> dict[str, Any] | None:
        """Start the job and relay its words.

        Returns:
            Its result; None when it ended without one, or was ended because the agent ends.
        """
        options = ("--store", str(self._switch.root), "--visits", str(visits), "--engine", self._engine)
        child = subprocess.Popen(
            [*self._command, *options, "--request", "-", "--background", "--json"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            return self._relay(child, order, progress)
        finally:
            _end(child)

    def _relay(self, child: subprocess.Popen[bytes], order: Order, progress: Progress) -> dict[str, Any] | None:
        if child.stdin is None or child.stdout is None:
            raise OSError(0, "the job has no pipes", self._command[0])
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(_request(order))
            child.stdin.close()
        state, said_s = "", time.monotonic()
        for line in _lines(child.stdout, progress):
            if line.get("final"):
                return line
            news = line.get("state") != state
            state = str(line.get("state"))
            if news and state in _SWITCHED:
                self._count_with_the_stores()
            if news or time.monotonic() - said_s > _SAY_EVERY_S:
                said_s = time.monotonic()
                progress.say(float(line.get("progress", 0)), f"{state}: {line.get('words', '')}", {"state": state})
        return None

    def _count_with_the_stores(self) -> None:
        try:
            self._switch.follow_store()
        except (BintallyError, CommandError) as exc:
            # The job watches how the new bundle counts, and takes it back; until then the old one counts here.
            _LOG.error("the recalibrated bundle cannot be counted with: %s", exc)


def _require_installed(*, ranges: bool) -> None:
    if importlib.util.find_spec("calibration") is None:
        raise CommandError(Reason.NOT_INSTALLED, "the package calibration")
    if ranges and importlib.util.find_spec("onnx") is None:
        words = "the package onnx, which deploy/install.sh brings; without it, send the command with ranges=false"
        raise CommandError(Reason.NOT_INSTALLED, words)


def _request(order: Order) -> bytes:
    command = cast("Recalibrate", order.command)
    fields = command.model_dump(mode="json", exclude={"command_id", "issued_at", "expires_at"}, exclude_none=True)
    return json.dumps({**fields, "job_id": order.id, "asked_at": command.issued_at.isoformat()}).encode()


def _lines(pipe: IO[bytes], progress: Progress) -> Iterator[dict[str, Any]]:
    """Read JSON lines until the end, or until the agent ends."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not progress.wait(0):
            if not selector.select(_POLL_S):
                continue
            data = pipe.read1(1 << 16)  # type: ignore[attr-defined]  # a BufferedReader
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            if len(rest) > _MAX_LINE:
                return
            for line in whole:
                with contextlib.suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict):
                        yield found


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
