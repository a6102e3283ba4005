# ruff: noqa: TID253 - asks torch what it can compute on
"""On what a training computes: the device, and how many threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from train.place import Place


def device_of(place: Place) -> str:
    """Choose where to compute.

    Args:
        place: "auto" takes this rank's GPU, where there is one.

    Returns:
        A torch device.

    Raises:
        ConfigError: The device that is asked for is not here.
    """
    if place.device == "auto":
        return f"cuda:{place.ranks.local}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=place.device)
    except (RuntimeError, AssertionError) as exc:  # no such name or number, no driver; torch built without it
        raise ConfigError(
            "cannot compute on this device",
            got=f"{place.device!r} ({str(exc).splitlines()[0][:120]})",
            expected="auto, cpu, cuda or cuda:1",
        ) from exc
    return place.device


def threads_of(place: Place, environment: Mapping[str, str]) -> int:
    """Choose how many threads torch computes with.

    Args:
        place: Its `threads`, where given, decide.
        environment: OMP_NUM_THREADS decides next, which torchrun sets to 1 where nobody did; else the processes that
            torchrun started on this machine (LOCAL_WORLD_SIZE) share its cores.

    Returns:
        At least one.
    """
    if place.threads:
        return place.threads
    asked = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    processes = environment.get("LOCAL_WORLD_SIZE", "1")
    return max(1, (os.cpu_count() or 1) // max(1, int(processes) if processes.isdecimal() else 1))
