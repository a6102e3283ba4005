# ruff: noqa: TID253 - puts torch networks together
"""Several runs become one: a run folder whose network answers with the mean of their logits.

Evaluation, export and teaching take it like any other run. Members that were trained apart make partly different
mistakes, so their mean is better than each; a robot pays with one pass per member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bundle import durable
from bundle.errors import ConfigError, InputError
from train import metrics
from train.answers import Answers, read_answers, write_answers
from train.checkpoint import save_weights
from train.heads import narrow_head
from train.mean import Ensemble
from train.run import METRICS_NAME, MODEL_NAME, PREDICTIONS_NAME, load_run, read_config, write_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bundle.manifest import CountClasses
    from train.run import Run


def make_ensemble(folders: Sequence[Path], out: Path, *, counts: CountClasses | None = None) -> dict[str, Any]:
    """Write an ensemble of finished runs.

    Args:
        folders: At least two run folders that learned from, and were judged on, the same splits of one dataset.
        out: Run folder to write; must not exist.
        counts: Count classes that the ensemble answers with, in every member's; None takes the first member's.

    Returns:
        The figures of its metrics.json, from the answers that the members kept.

    Raises:
        InputError: Not a finished run, an ensemble itself, or runs that do not belong together.
        ConfigError: `out` exists, fewer than two runs, or a member does not know a count class.
    """
    if len(folders) < 2:  # noqa: PLR2004 - a mean of one is no ensemble
        raise ConfigError("an ensemble has at least two members", got=len(folders))
    if out.exists():
        raise ConfigError(f"{out} exists already", fix="Name a new folder, or remove this one.")
    runs = [load_run(folder) for folder in folders]
    classes = counts or runs[0].classes
    for run in runs:
        _require_alike(run, runs[0])
    answers = _mean([read_answers(run.folder / PREDICTIONS_NAME, run.classes).narrowed(classes) for run in runs])
    figures = {"split": runs[0].config.eval_split, "classes": list(classes), "members": [str(f) for f in folders]}
    figures |= metrics.measure(answers.judged(), classes)
    _write(out, runs, classes, answers, figures)
    return figures


def _require_alike(run: Run, first: Run) -> None:
    """A member that learned from photos on which the others are judged would make the figures lie."""
    if run.members:  # config.json lists networks, not trees of them
        raise InputError(f"{run.folder} is an ensemble itself", fix="Name its members instead.")
    for what, mine, its in (
        ("dataset", run.dataset_sha256, first.dataset_sha256),
        ("training split", run.config.train_split, first.config.train_split),
        ("evaluation split", run.config.eval_split, first.config.eval_split),
        ("preprocessing", run.preprocessing, first.preprocessing),
    ):
        if mine != its:
            raise InputError(
                f"{run.folder} and {first.folder} do not belong into one ensemble",
                got=f"{what} {mine} and {its}",
                expected=f"the same {what}",
            )


def _mean(answers: Sequence[Answers]) -> Answers:
    first = answers[0]
    if any(other.ids != first.ids for other in answers):
        raise InputError("the members kept answers to different photos", fix="Judge them on the same split.")
    logits = torch.stack([torch.from_numpy(other.logits) for other in answers]).mean(dim=0)
    return Answers(first.classes, first.ids, first.counts, logits.numpy())


def _write(out: Path, runs: Sequence[Run], classes: CountClasses, answers: Answers, figures: dict[str, Any]) -> None:
    module = Ensemble(narrow_head(run.module, _columns(run, classes)) for run in runs)
    config = runs[0].config.model_copy(update={"counts": classes, "supervise": None})
    try:
        out.mkdir(parents=True)
        write_config(
            out,
            config,
            read_config(runs[0].folder).origin,
            members=tuple(run.config for run in runs),
        )
        write_answers(out / PREDICTIONS_NAME, answers)
        durable.write_json(out / METRICS_NAME, figures)
        save_weights(out / MODEL_NAME, module.state_dict())  # last: without it the run is not finished
    except OSError as exc:
        raise InputError(f"cannot write the ensemble to {out}", got=exc.strerror, fix="Make room.") from exc


def _columns(run: Run, classes: CountClasses) -> slice:
    start = run.classes.index(classes[0])
    return slice(start, start + len(classes))
