# ruff: noqa: TID253 - this file writes torch's format
"""Checkpoints: whole or absent, and enough of them to go on as if nothing had happened.

A checkpoint is tensors, numbers and text alone, so reading one executes nothing. It carries the hash of the
configuration and of the dataset, because weights of another run resume without any error and mean nothing.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

import torch

from bundle import durable
from bundle.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 1


def save(path: Path, state: dict[str, Any], *, config_sha256: str, dataset_sha256: str) -> None:
    """Write a checkpoint atomically; the one before it stays intact until this one is whole on disk.

    Args:
        path: Destination; its folder exists.
        state: Tensors, numbers, text, lists and dicts of those.
        config_sha256: Of the resolved configuration.
        dataset_sha256: Of the dataset manifest.

    Raises:
        InputError: The disk refused.
    """
    header = {"format": FORMAT_VERSION, "config_sha256": config_sha256, "dataset_sha256": dataset_sha256}
    buffer = io.BytesIO()
    torch.save(header | state, buffer)
    try:
        durable.write_bytes(path, buffer.getvalue())
    except OSError as exc:
        raise InputError(
            f"cannot write the checkpoint {path}",
            got=exc.strerror or str(exc),
            fix="The checkpoint before it is intact. Make room, then go on with --resume.",
        ) from exc


def load(path: Path, *, config_sha256: str, dataset_sha256: str) -> dict[str, Any]:
    """Read a checkpoint of exactly this configuration and dataset.

    Args:
        path: Written by `save`.
        config_sha256: What it must have been written with.
        dataset_sha256: Likewise.

    Returns:
        The state.

    Raises:
        InputError: Not a checkpoint of this format.
        ConfigError: It belongs to another configuration or dataset.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as exc:
        raise InputError(
            f"{path} is not a checkpoint", got=f"{type(exc).__name__}: {exc}"[:200], fix="Train again with --overwrite."
        ) from exc
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has another format", got=version, expected=FORMAT_VERSION)
    for name, expected in (("config_sha256", config_sha256), ("dataset_sha256", dataset_sha256)):
        if state[name] != expected:
            what = name.partition("_")[0]
            raise ConfigError(
                f"the checkpoint {path} belongs to another {'configuration' if what == 'config' else what}",
                got=state[name][:12],
                expected=expected[:12],
                fix="Resume with the flags it was started with, or train into another folder.",
            )
    return state


def save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write a plain state dict atomically, as `torch.load(path, weights_only=True)` reads it.

    Args:
        path: Destination; its folder exists.
        weights: Tensors by name.

    Raises:
        OSError: The disk refused.
    """
    buffer = io.BytesIO()
    torch.save({name: value.contiguous() for name, value in weights.items()}, buffer)
    durable.write_bytes(path, buffer.getvalue())
