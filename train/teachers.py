# ruff: noqa: TID253 - teachers are torch networks
"""Finished runs that teach a new one: consistent distillation (Beyer and others, 2022).

Teachers see the very pictures that the student sees, augmentation included, brought to their own size and
normalisation; their posteriors are averaged. A teacher answers with the student's count classes, or with all that the
student learns; where both kinds teach, the wide ones are asked for their posterior given the count classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from bundle import durable
from bundle.errors import ConfigError, InputError
from train.run import MODEL_NAME, load_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from bundle.manifest import Preprocessing
    from train.config import TrainConfig
    from train.run import Run


class Teachers:
    """Finished runs, ready to be asked.

    Args:
        folders: Run folders.
        config: The student's configuration.
        spec: The student's preprocessing.
        device: Where to compute.
        dataset_sha256: Hash of the manifest that the student learns from; None where nobody is judged on it.

    Raises:
        InputError: Not a finished run.
        ConfigError: A teacher answers with other classes, does not squash as the student does, or learned from photos
            that the student is judged on.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        config: TrainConfig,
        spec: Preprocessing,
        device: str,
        dataset_sha256: str | None = None,
    ) -> None:
        self._config, self._spec = config, spec
        self._runs = [_checked(load_run(folder), config) for folder in folders]
        for run in self._runs:
            if run.dataset_sha256 == dataset_sha256:
                _require_unseen(run, config)
        for run in self._runs:
            run.module.to(device).requires_grad_(requires_grad=False)
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
        narrow = any(run.classes != config.learned for run in self._runs)
        self._columns = config.readout if narrow else slice(0, len(config.learned))

    def loss(self, logits: Tensor, images: Tensor, *targets: Tensor) -> Tensor:
        """Distance of the student's posterior to the teachers' mean one.

        Args:
            logits: float32 (N, K), the student's.
            images: float32 (N, 3, h, w), the student's inputs.
            targets: int64 (N,); where pictures are blends, also their partners'. A picture that shows a photo of a
                class that the teachers do not know counts nothing.

        Returns:
            float32 (N,), Kullback-Leibler divergence times the squared temperature.
        """
        heat = self._config.distill.temperature
        with torch.no_grad():
            answers = [torch.softmax(self._ask(run, images) / heat, dim=1) for run in self._runs]
            wanted = torch.stack(answers).mean(dim=0)
        said = torch.log_softmax(logits[:, self._columns] / heat, dim=1)
        shown = torch.stack(targets)
        known = ((shown >= self._columns.start) & (shown < self._columns.stop)).all(dim=0)
        return functional.kl_div(said, wanted, reduction="none").sum(dim=1) * heat**2 * known

    def _ask(self, run: Run, images: Tensor) -> Tensor:
        spec = run.preprocessing
        if (spec.mean, spec.std) != (self._spec.mean, self._spec.std):
            pixels = images * self._std + self._mean
            mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
            images = (pixels - mean) / std
        size = (spec.size_wh[1], spec.size_wh[0])
        if images.shape[2:] != size:
            images = functional.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        answered: Tensor = run.module(images)
        return answered.float()[:, self._columns] if run.classes == self._config.learned else answered.float()


def teacher_hashes(folders: Sequence[Path]) -> tuple[str, ...]:
    """Hash the teachers' weights, which decide what the student becomes.

    Args:
        folders: Run folders.

    Returns:
        sha256 each.

    Raises:
        InputError: A run is not finished.
    """
    try:
        return tuple(durable.sha256_file(folder / MODEL_NAME) for folder in folders)
    except OSError as exc:
        raise InputError(f"cannot read the teacher {exc.filename}", got=exc.strerror, fix="Finish its run.") from exc


def _checked(run: Run, config: TrainConfig) -> Run:
    if run.classes not in (config.counts, config.learned):
        raise ConfigError(
            f"the teacher {run.folder} answers with other classes",
            got=" ".join(run.classes),
            expected=" ".join(config.counts),
        )
    if run.preprocessing.resize != config.model.resize:
        raise ConfigError(
            f"the teacher {run.folder} sees photos in another shape",
            got=run.preprocessing.resize,
            expected=config.model.resize,
        )
    return run


def _require_unseen(run: Run, config: TrainConfig) -> None:
    """A teacher hands on what it saw: figures on photos that it learned from would lie."""
    judged_on = set(config.eval_split.split(","))
    learned_from = {part for one in run.members or (run.config,) for part in one.train_split.split(",")}
    if seen := sorted(judged_on & learned_from):
        raise ConfigError(
            f"the teacher {run.folder} learned from photos that the student is judged on",
            got=", ".join(seen),
            fix="Take teachers that were trained on the student's own training split (the same --fold).",
        )
