"""Runs a program under a unit's SystemCallFilter, without systemd: what is not allowed gives EPERM. x86-64 alone.

`python -m tests.simulators.seccomp UNIT PROGRAM [ARGUMENT...]`
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
_ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def expand(name: str) -> set[str]:
    """The system calls of a group, or the one that is named."""
    if not name.startswith("@"):
        return {name}
    done = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    words = [line.strip() for line in done.stdout.splitlines()[1:]]
    return set().union(*(expand(word) for word in words if word and not word.startswith("#")))


def allowed_calls(unit: Path) -> set[str]:
    """What the SystemCallFilter lines of a unit leave, in their order."""
    allowed = expand("@default")  # systemd adds it to an allow list
    for value in re.findall(r"^SystemCallFilter=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE):
        calls = set().union(*(expand(word) for word in value.lstrip("~").split()))
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def install(allowed: set[str]) -> None:
    """Put the filter on this process and on all that it starts."""
    known = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", HEADER.read_text(encoding="ascii")))
    steps = [(_LOAD, 0, 0, 4), (_JUMP_IF_EQUAL, 1, 0, _ARCHITECTURE), (_RETURN, 0, 0, _EPERM), (_LOAD, 0, 0, 0)]
    for number in sorted(int(known[name]) for name in allowed if name in known):
        steps += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    steps.append((_RETURN, 0, 0, _EPERM))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "the filter cannot be installed")


if __name__ == "__main__":
    install(allowed_calls(Path(sys.argv[1])))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the point of this program
