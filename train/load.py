# ruff: noqa: TID253 - asks torch how busy the GPU is
"""How busy the machine is while a run trains, twice a second, for the rules that say why a training is slow."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

INTERVAL_S = 0.5
_STAT = Path("/proc/stat")
_MOST_WAITING = 10_000
_IDLE, _IO_WAIT, _FIELDS = 3, 4, 8


class LoadSampler:
    """While entered, samples in a thread of its own; a sample costs some tens of microseconds.

    Args:
        device: Where the run computes.
        stat: Linux's /proc/stat; where there is none, nothing is sampled.
    """

    def __init__(self, device: str, stat: Path = _STAT) -> None:
        self._device, self._stat = torch.device(device), stat
        self._samples: deque[dict[str, Any]] = deque(maxlen=_MOST_WAITING)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        if self._stat.is_file():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def take(self, step: int) -> list[dict[str, Any]]:
        """Hand over what was sampled since the last time.

        Args:
            step: Of the run, now.

        Returns:
            Records with "cpu" and "io_wait" in percent, and "gpu", percent or None.
        """
        taken = []
        while self._samples:
            taken.append({"kind": "system", "step": step, **self._samples.popleft()})
        return taken

    def _run(self) -> None:
        before = cpu_ticks(self._stat.read_text(encoding="ascii"))
        while not self._ended.wait(INTERVAL_S):
            now = cpu_ticks(self._stat.read_text(encoding="ascii"))
            self._samples.append({**shares(before, now), "gpu": self._gpu()})
            before = now

    def _gpu(self) -> int | None:
        if self._device.type != "cuda":
            return None
        try:
            return int(torch.cuda.utilization(self._device))
        except (ModuleNotFoundError, RuntimeError):  # needs NVIDIA's management library
            return None


def cpu_ticks(text: str) -> list[int]:
    """Read /proc/stat.

    Args:
        text: The file.

    Returns:
        Ticks of all processors: user, nice, system, idle, iowait, irq, softirq, steal.
    """
    return [int(word) for word in text.splitlines()[0].split()[1 : 1 + _FIELDS]]


def shares(before: list[int], now: list[int]) -> dict[str, float]:
    """Where the processors' time went between two looks.

    Args:
        before: From `cpu_ticks`.
        now: Likewise, later.

    Returns:
        "cpu" (busy) and "io_wait" (waiting for a disk), percent.
    """
    spent = [new - old for new, old in zip(now, before, strict=True)]
    total = max(1, sum(spent))
    busy = total - spent[_IDLE] - spent[_IO_WAIT]
    return {"cpu": round(100 * busy / total, 1), "io_wait": round(100 * spent[_IO_WAIT] / total, 1)}
