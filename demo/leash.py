"""Start a command that ends when its parent does: `python -m demo.leash PARENT_PID COMMAND...`.

Whoever kills the tour, even with SIGKILL, takes the agent with it: Linux sends the agent SIGTERM, on which it stops in
good order. Elsewhere the command simply runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then become the command.

    Args:
        arguments: The parent's process id, then the command.
    """
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the leash was on
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
