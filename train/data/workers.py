"""Work spread over processes, with results in the order of the tasks.

Not `multiprocessing`: its spawned processes import the caller's script again, which breaks scripts without a
`__main__` guard and programs read from standard input; its forked ones can deadlock when OpenCV, Arrow or torch have
started threads. Here a process is `python -c` with two pipes. It ends when its input ends, so it cannot outlive its
parent, however that dies; it has a session of its own, so Ctrl-C reaches the parent alone.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from bundle.errors import BintallyError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_WINDOW_PER_WORKER = 4
_LENGTH_BYTES = 8


def run_in_order(work: Callable[[Any], Any], tasks: Iterable[Any], *, workers: int) -> Iterator[Any]:
    """Work through tasks on several processes, and yield the results in the order of the tasks.

    Args:
        work: A function of an importable module; it, its argument and its result travel as pickles.
        tasks: What to call it with; taken lazily, a bounded number ahead.
        workers: Processes; 1 or less stays in this process.

    Yields:
        One result per task.

    Raises:
        BintallyError: What the work raised.
        ConfigError: A process died.
    """
    if workers <= 1:
        yield from map(work, tasks)
        return
    idle: SimpleQueue[_Process] = SimpleQueue()
    processes = [_Process() for _ in range(workers)]
    for process in processes:
        idle.put(process)

    def call(task: Any) -> Any:  # noqa: ANN401 - whatever the work takes and gives
        process = idle.get()
        try:
            return process.call(work, task)
        finally:
            idle.put(process)

    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Any]] = deque()
    try:
        for task in tasks:
            pending.append(pool.submit(call, task))
            # A bounded window: half a million photos must not wait in a queue as finished results.
            if len(pending) >= workers * _WINDOW_PER_WORKER:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for process in processes:
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


class _Process:
    """One worker process, used by one thread at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._popen = subprocess.Popen(
            [sys.executable, "-c", "from train.data.workers import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )

    def call(self, work: Callable[[Any], Any], task: Any) -> Any:  # noqa: ANN401 - see run_in_order
        stdin, stdout = self._popen.stdin, self._popen.stdout
        if stdin is None or stdout is None:
            raise ConfigError("a worker process has no pipes")
        try:
            _send(stdin, (work, task))
            good, result = _receive(stdout)
        except (EOFError, OSError) as exc:
            raise ConfigError(
                "a process that reads photos died",
                got=f"exit code {self._popen.poll()}",
                fix="Its messages stand above. Killed for memory? Pass fewer workers.",
            ) from exc
        if not good:
            raise result
        return result

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                # Closing writes what is buffered first, and nobody reads it any more; the pipe is closed all the same.
                with suppress(OSError):
                    pipe.close()


def serve() -> None:
    """Be a worker process: take calls from standard input until it ends, answer on standard output."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # A stray print must not end up among the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import cv2

    cv2.setNumThreads(1)
    while True:
        try:
            work, task = _receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (True, work(task))
        except BintallyError as exc:
            # Anything else is our fault: it ends this process with a traceback on stderr, and the parent says so.
            answer = (False, exc)
        try:
            _send(answers, answer)
        except BrokenPipeError:
            return


def _send(pipe: IO[bytes], value: object) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:  # noqa: ANN401 - whatever was sent
    head = pipe.read(_LENGTH_BYTES)
    length = int.from_bytes(head, "big")
    data = pipe.read(length) if len(head) == _LENGTH_BYTES else b""
    if len(head) != _LENGTH_BYTES or len(data) != length:
        raise EOFError
    return pickle.loads(data)  # noqa: S301 - our own process wrote it
