"""Work in a process of its own: a crash, a hang or a leak inside a runtime stays there.

The child is a fresh interpreter (spawn), so nothing of the parent's threads, sessions or memory is in it.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from bundle.errors import BintallyError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

Say: TypeAlias = "Callable[[str], None]"
"""Tells the parent in words what happens."""

_GRACE_S = 5.0


def in_child(
    work: Callable[..., dict[str, Any]], *arguments: object, timeout_s: float, say: Say = lambda _: None
) -> dict[str, Any]:
    """Run a function in a fresh process and wait for it.

    Args:
        work: A function at the top of a module; called as work(say, *arguments).
        *arguments: Picklable.
        timeout_s: The child is killed after so many seconds.
        say: Told what the child reports on its way.

    Returns:
        What `work` returned: plain values.

    Raises:
        EngineError: The child reported an error of bintally's, died, or took too long.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        return _listen(ours, process, time.monotonic() + timeout_s, timeout_s, say)
    finally:
        process.join(_GRACE_S if process.exitcode is None else None)
        if process.exitcode is None:
            process.kill()
            process.join()
        ours.close()


def _child(connection: Connection, work: Callable[..., dict[str, Any]], arguments: tuple[object, ...]) -> None:
    def say(words: str) -> None:
        connection.send(("says", words))

    try:
        result = work(say, *arguments)
    except BintallyError as exc:
        connection.send(("failed", str(exc)))
    else:
        connection.send(("done", result))
    connection.close()


def _listen(connection: Connection, process: BaseProcess, end: float, timeout_s: float, say: Say) -> dict[str, Any]:
    while True:
        if not connection.poll(max(0.0, end - time.monotonic())):
            process.kill()
            raise EngineError("a child process took too long and was ended", got=f"more than {timeout_s:.0f} s")
        try:
            kind, content = connection.recv()
        except EOFError as exc:
            process.join()
            raise EngineError(
                "a child process died", got=f"exit code {process.exitcode}", fix="Its last words are on stderr."
            ) from exc
        if kind == "done":
            result: dict[str, Any] = content
            return result
        if kind == "failed":
            raise EngineError(content)
        say(content)
