"""The operating system's side of a capture process: it is started, weighed and killed here, whatever state it is in."""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.capture.frames import MAX_MESSAGE_BYTES, SLOT, decode_message
from edge_agent.machine import private_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.capture.frames import CaptureMessage
    from edge_agent.capture.order import CaptureOrder

_LOG = logging.getLogger(__name__)

CAPTURE_COMMAND = (sys.executable, "-m", "edge_agent.capture.process")
_KILL_WAIT_S = 0.5


def is_readable(pipe: socket.socket, timeout_s: float = 0.0) -> bool:
    """Tell whether a message waits.

    Args:
        pipe: To a capture process.
        timeout_s: How long to wait for one.

    Returns:
        True also when the process is gone, which reading will tell.
    """
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(timeout_s * 1e3))


class CaptureProcess:
    """One capture process after the other, at most one at a time.

    Args:
        command: Its command line, without its two arguments.
        camera: Name for the log.

    Attributes:
        connection: The agent's end of the pipe; None while there is no process.
        process: The one that was started last, alive or dead; None when it was stopped.
    """

    def __init__(self, command: Sequence[str], camera: str) -> None:
        self.connection: socket.socket | None = None
        self._command = tuple(command)
        self._camera = camera
        self.process: subprocess.Popen[bytes] | None = None
        self._stuck: subprocess.Popen[bytes] | None = None

    @property
    def memory_bytes(self) -> int:
        """What it holds for itself alone, bytes: the frames' shared memory is left out. 0 when it is not known."""
        return 0 if self.process is None else private_bytes(self.process.pid) or 0

    def start(self, order: CaptureOrder, memory: int) -> None:
        """Start it and hand all slots over.

        Args:
            order: What it is told.
            memory: Descriptor of the shared memory.

        Raises:
            OSError: The machine is out of memory, descriptors or processes, or the process before does not die;
                `stop` cleans up.
        """
        if self._stuck is not None and self._stuck.poll() is None:
            raise OSError(errno.EBUSY, "the process before does not die")
        self._stuck = None
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
            self.process = subprocess.Popen(
                [*self._command, str(memory), str(theirs.fileno())],
                pass_fds=(memory, theirs.fileno()),
                # OpenCV's errors quote a camera's whole address; what failed is told by the capture process.
                env={"OPENCV_LOG_LEVEL": "FATAL", **os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for the agent, which then ends its cameras itself.
                start_new_session=True,
            )
            self.connection.send(json.dumps(asdict(order)).encode())
            for slot in range(order.slots):
                self.give(slot)

    def give(self, slot: int, wanted_s: float = 0.0) -> None:
        """Hand a slot over; where the process is dead, `receive` says so.

        Args:
            slot: Its number.
            wanted_s: Before this monotonic second a live camera need not look.
        """
        if self.connection is not None:
            with suppress(OSError):
                self.connection.send(SLOT.pack(slot, wanted_s))

    def receive(self) -> CaptureMessage | None:
        """Take the next message, or wait for one.

        Returns:
            The message; None when the process is dead.

        Raises:
            CameraError: It is no such message.
        """
        try:
            data = self._read()
        except OSError:
            return None
        return decode_message(data) if data else None

    def _read(self) -> bytes:
        if self.connection is None:
            return b""
        try:
            return self.connection.recv(MAX_MESSAGE_BYTES)
        except ConnectionResetError:  # it died with slots unread, which is told before the messages that it had sent
            return self.connection.recv(MAX_MESSAGE_BYTES)

    def kill(self) -> None:
        """Kill it; what it has sent can still be read."""
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """End it, however it is."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.kill()
        if self.process is not None:
            try:
                self.process.wait(_KILL_WAIT_S)
            except subprocess.TimeoutExpired:
                # Stuck in the kernel (uninterruptible): it dies with its device. Waiting would stop the other cameras.
                self._stuck = self.process
                _LOG.warning("capture process %d of camera %s does not die", self.process.pid, self._camera)
            self.process = None
