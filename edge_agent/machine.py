"""What the machine under the agent tells: heat, throttling, over-current, clock, disk and memory.

Everything is read from files below a root folder, so that a test can make a machine up. What a machine does not tell is
None, never a made-up zero. A file that the kernel offers can fail to be read (the sensor of a unit that is switched
off), so each is asked alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")
_LIBC = ctypes.CDLL(None, use_errno=True)
_MAX_SENSORS = 128
_MAX_READ_BYTES = 256
_CLOCK_ERROR = 5
_STA_UNSYNC = 0x40
_CLOCK_EVERY_S = 1.0
_NOT_COOLING = ("fan", "tachometer")
"""Cooling devices whose activity slows nothing down."""


def slept_s(read: Callable[[int], float] = time.clock_gettime) -> float:
    """How long the machine has been suspended since its start, which the monotonic clock leaves out.

    Args:
        read: Reads a clock of the kernel, seconds.

    Returns:
        Seconds, which only grow; 0 where the kernel has no such clock.
    """
    with_sleep: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if with_sleep is None else read(with_sleep) - read(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Heat:
    """Temperature and power, as far as the machine tells.

    Attributes:
        temperature_c: Of the hottest zone.
        throttled: Whether anything is slowed down now, by heat or by power.
        over_current_events: How often the power supply gave too little since the start of the machine (Jetson).
    """

    temperature_c: float | None
    throttled: bool | None
    over_current_events: int | None


@dataclass(frozen=True, slots=True)
class ClockQuality:
    """How far the wall clock can be trusted.

    Attributes:
        synchronised: Whether a time server keeps it.
        max_error_ms: The kernel's bound for its error, None when it has none.
    """

    synchronised: bool | None
    max_error_ms: float | None


def read_heat(root: Path = Path("/")) -> Heat:
    """Ask the sensors.

    Args:
        root: The machine's file system.

    Returns:
        What they tell.
    """
    thermal, hwmon = root / "sys/class/thermal", root / "sys/class/hwmon"
    zones = _numbers(thermal, "thermal_zone*/temp")
    over_current = _numbers(hwmon, "hwmon*/oc*_event_cnt")
    return Heat(
        temperature_c=max(zones) / 1e3 if zones else None,
        throttled=_throttled(thermal),
        over_current_events=sum(over_current) if over_current else None,
    )


def _throttled(thermal: Path) -> bool | None:
    """Whether any cooling device that slows something down is at work: on a Jetson cpu-throttle-alert and its like."""
    known, active = False, False
    for device in _found(thermal, "cooling_device*"):
        kind, state = _text(device / "type"), _number(device / "cur_state")
        if kind is None or state is None or any(word in kind.lower() for word in _NOT_COOLING):
            continue
        known, active = True, active or state > 0
    return active if known else None


def _numbers(folder: Path, pattern: str) -> list[int]:
    found = (_number(file) for file in _found(folder, pattern))
    return [value for value in found if value is not None]


def _found(folder: Path, pattern: str) -> list[Path]:
    """Files that match; none when the folder cannot be read, as in a process that is out of descriptors."""
    try:
        return sorted(folder.glob(pattern))[:_MAX_SENSORS]
    except OSError:
        return []


def _number(file: Path) -> int | None:
    text = _text(file)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _text(file: Path) -> str | None:
    try:
        with file.open(encoding="ascii", errors="replace") as handle:
            return handle.read(_MAX_READ_BYTES).strip()
    except OSError:
        return None


class _Timex(ctypes.Structure):
    """The beginning of struct timex (adjtimex(2)); the kernel may write more."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


def read_clock(root: Path = Path("/")) -> ClockQuality:
    """Ask who keeps the wall clock.

    The kernel is asked first. The service's sandbox forbids that call together with those that set the clock; then the
    mark of systemd-timesyncd counts, which says that the clock was set since the start of the machine.

    Args:
        root: The machine's file system.

    Returns:
        Its quality.
    """
    timex = _Timex()  # modes 0: asks, and changes nothing
    try:
        state = _LIBC.adjtimex(ctypes.byref(timex))
    except AttributeError:
        state = -1
    return judge_clock(state, timex.status, timex.maxerror, mark=_timesync_mark(root))


class ClockWatch:
    """The wall clock's quality for every count: it changes in minutes, so it is asked once a second at most.

    Args:
        clock: Monotonic seconds.
        read: Asks the machine.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, read: Callable[[], ClockQuality] = read_clock
    ) -> None:
        self._clock = clock
        self._read = read
        self._known: ClockQuality | None = None
        self._asked_s = 0.0

    @property
    def quality(self) -> ClockQuality:
        """As of the last second."""
        now_s = self._clock()
        if self._known is None or now_s - self._asked_s >= _CLOCK_EVERY_S:
            self._known, self._asked_s = self._read(), now_s
        return self._known


def judge_clock(state: int, status: int, max_error_us: int, *, mark: bool | None) -> ClockQuality:
    """Decide what the kernel's answer means.

    Args:
        state: What adjtimex returned; negative when it may not be asked.
        status: Bits of timex.status.
        max_error_us: timex.maxerror.
        mark: Whether systemd-timesyncd has set the clock; None without it.

    Returns:
        The clock's quality.
    """
    if state < 0:
        return ClockQuality(mark, None)
    synchronised = state != _CLOCK_ERROR and not status & _STA_UNSYNC
    return ClockQuality(synchronised, round(max_error_us / 1e3, 3) if synchronised else None)


def _timesync_mark(root: Path) -> bool | None:
    folder = root / "run/systemd/timesync"
    try:
        (folder / "synchronized").stat()
    except OSError as exc:
        return False if exc.errno == errno.ENOENT and folder.is_dir() else None
    return True


def rss_bytes() -> int | None:
    """Memory of this process, None where the system does not say."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def private_bytes(pid: int) -> int | None:
    """Memory of a process that it shares with no other, None where the system does not say.

    Args:
        pid: Its number.
    """
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def disk_free_bytes(path: Path) -> int | None:
    """Room on the disk of a path, None when it cannot be asked."""
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
