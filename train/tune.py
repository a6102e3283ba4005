"""Tuning: many trainings, each one resumable, in one study that survives kills and shares its work.

```
OUT/
  study.json         what is searched, from what base and files; every worker must agree (train.study)
  journal.log        Optuna's journal (or a database, for many hosts)
  trials/00007/      the run folder of trial 7; trials/00007.lock is held while a process works on it
  tune.json          the table of results, best first
  tune.html          the same as pictures
```
Any number of processes may run the same command. A trial whose process died is taken up by the next one where its last
checkpoint left it, not started again: a dead process holds no lock.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from bundle import durable
from bundle.errors import ConfigError, InputError
from train.config import load_config
from train.job import train
from train.journal import open_journal
from train.memory import OutOfMemoryError
from train.run import CONFIG_NAME, STREAM_NAME
from train.search import Space, draw
from train.stream import read_stream
from train.study import agree, check_space, files_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from train.place import Place
    from train.progress import Progress

MAXIMISED = frozenset({"accuracy", "within_1", "macro_f1"})
MINIMISED = frozenset({"rmse", "rmse_posterior_mean", "mae", "ece", "loss"})
STUDY_NAME = "bintally"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What to search and where.

    Attributes:
        out: Folder of the study.
        base: (dotted key -> value) that every trial starts from.
        space: What trials differ in.
        metric: Which figure decides.
        trials: Trainings in all, over every process and restart.
        seed: Of the sampler, to which each process adds its number: one seed does not repeat a search.
        prune: End trials that are behind the median of the others at the same epoch.
        storage: URL of a database for many hosts; None keeps a journal in `out`.
    """

    out: Path
    base: Mapping[str, Any]
    space: Space
    metric: str = "rmse_posterior_mean"
    trials: int = 20
    seed: int = 0
    prune: bool = True
    storage: str | None = None


@dataclass(frozen=True, slots=True)
class TrialResult:
    """One trial of the table.

    Attributes:
        number: Of the trial.
        state: "complete", "pruned", "fail" or "running".
        value: The deciding figure, or None.
        epochs: Epochs that were judged.
        params: What was drawn.
        why: Why it failed, or "".
    """

    number: int
    state: str
    value: float | None
    epochs: int
    params: dict[str, Any]
    why: str


class _StillTrainingError(Exception):
    """Every trial is taken."""


def tune(
    tuning: Tuning, place: Place, *, progress: Progress, stop: Callable[[], bool] = lambda: False
) -> list[TrialResult]:
    """Work on a study until its trials are done.

    Args:
        tuning: What to search and where.
        place: Dataset, weights, device and threads of every trial; `out`, `resume` and `overwrite` are set per trial.
        progress: Where to report.
        stop: Asked after every update; True leaves the current trial at its checkpoint for whoever comes next.

    Returns:
        The table, best first.

    Raises:
        ConfigError: The study in `out` searches something else or in other files, the metric is unknown, or the space
            has a key or a value that no training takes.
        InputError: Dataset, weights or disk cannot be used.
        StopRequestedError: `stop` said so.
    """
    study = _open_study(tuning, place)
    while True:
        try:
            with _claimed(study, tuning) as trial:
                _run_trial(study, trial, tuning, place, progress, stop)
        except _StillTrainingError:
            break
        _write_results(study, tuning)
    return _write_results(study, tuning)


def results(study: optuna.Study, metric: str) -> list[TrialResult]:
    """The table of a study.

    Args:
        study: The study.
        metric: Which figure decides.

    Returns:
        Best first; trials without a value last.
    """
    rows = [
        TrialResult(
            number=trial.number,
            state=trial.state.name.lower(),
            value=trial.value if trial.state == TrialState.COMPLETE else _last(trial),
            epochs=len(trial.intermediate_values),
            params=dict(trial.params),
            why=str(trial.user_attrs.get("why", "")),
        )
        for trial in study.get_trials(deepcopy=False)
    ]
    sign = -1.0 if metric in MAXIMISED else 1.0
    rank = {"complete": 0, "pruned": 1}
    return sorted(rows, key=lambda row: (rank.get(row.state, 2), sign * row.value if row.value is not None else 0.0))


def _open_study(tuning: Tuning, place: Place) -> optuna.Study:
    if tuning.metric not in MAXIMISED | MINIMISED:
        raise ConfigError(
            "there is no such figure to tune by",
            got=repr(tuning.metric),
            expected=", ".join(sorted(MAXIMISED | MINIMISED)),
        )
    check_space(tuning.base, tuning.space)
    wanted = {
        "metric": tuning.metric,
        "space": {key: asdict(dimension) for key, dimension in tuning.space.items()},
        "base": dict(tuning.base),
        **files_of(tuning.base, place),
    }
    try:
        (tuning.out / "trials").mkdir(parents=True, exist_ok=True)
        with _locked(tuning.out / "claim.lock"):
            agree(tuning.out, wanted)
            return _study(tuning)
    except OSError as exc:
        raise InputError(f"cannot write the study {tuning.out}", got=exc.strerror) from exc


def _study(tuning: Tuning) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=STUDY_NAME,
        storage=tuning.storage or open_journal(tuning.out / "journal.log"),
        direction="maximize" if tuning.metric in MAXIMISED else "minimize",
        # Every process draws its own numbers, or parallel ones would all try the same point.
        sampler=optuna.samplers.TPESampler(seed=tuning.seed + os.getpid()),
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=1) if tuning.prune else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


@contextmanager
def _claimed(study: optuna.Study, tuning: Tuning) -> Iterator[optuna.Trial]:
    """Take an abandoned trial or start a new one, and hold its lock."""
    with _locked(tuning.out / "claim.lock"):
        trial, handle = _abandoned(study, tuning) or _fresh(study, tuning)
    try:
        yield trial
    finally:
        os.close(handle)


def _abandoned(study: optuna.Study, tuning: Tuning) -> tuple[optuna.Trial, int] | None:
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        handle = _try_lock(_lock_path(tuning, frozen.number))
        if handle is not None:
            return optuna.Trial(study, frozen._trial_id), handle  # noqa: SLF001 - Optuna offers no other way back
    return None


def _fresh(study: optuna.Study, tuning: Tuning) -> tuple[optuna.Trial, int]:
    if len(study.get_trials(deepcopy=False)) >= tuning.trials:
        raise _StillTrainingError
    trial = study.ask()
    handle = _try_lock(_lock_path(tuning, trial.number))
    if handle is None:
        raise InputError(f"trial {trial.number} is locked by a process of another study", fix="Use another --out.")
    return trial, handle


def _run_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    tuning: Tuning,
    place: Place,
    progress: Progress,
    stop: Callable[[], bool],
) -> None:
    try:
        figures = _train(trial, tuning, place, progress, stop)
    except optuna.TrialPruned:
        progress.line(f"trial {trial.number} is behind the others and ends")
        study.tell(trial, state=TrialState.PRUNED)
    except (ConfigError, OutOfMemoryError) as exc:
        # A point of the space that does not train (DivergedError is a ConfigError) is a result, not the end: left
        # running, it would meet every restart first.
        trial.set_user_attr("why", str(exc))
        study.tell(trial, state=TrialState.FAIL)
        progress.line(f"trial {trial.number} failed: {exc}")
    else:
        value = _final(figures, tuning.metric, trial)
        study.tell(trial, value)
        progress.line(f"trial {trial.number}: {tuning.metric} {value:.4f}")


def _train(
    trial: optuna.Trial, tuning: Tuning, place: Place, progress: Progress, stop: Callable[[], bool]
) -> dict[str, Any]:
    config = load_config(None, draw(tuning.space, trial).items(), base=tuning.base)
    folder = tuning.out / "trials" / f"{trial.number:05d}"
    progress.line(f"trial {trial.number}{' goes on' if (folder / CONFIG_NAME).exists() else ''}: {trial.params}")
    report = _reporter(trial, tuning.metric)
    # Killed between its checkpoint and its report, a trial has epochs that the study has not heard of.
    for record in read_stream(folder / STREAM_NAME, "epoch") if (folder / STREAM_NAME).exists() else ():
        report(record)
    where = replace(place, out=folder, resume=True, overwrite=False)
    return train(config, where, progress=progress, stop=stop, on_epoch=report)


def _final(figures: dict[str, Any], metric: str, trial: optuna.Trial) -> float:
    if metric in figures:
        return float(figures[metric])
    # "loss" is no figure of the final report; the last epoch's stands for it.
    last = _last(trial.study.get_trials(deepcopy=False)[trial.number])
    return float("nan") if last is None else last


def _reporter(trial: optuna.Trial, metric: str) -> Callable[[dict[str, Any]], None]:
    known = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def report(record: dict[str, Any]) -> None:
        step = int(record["epoch"]) + 1
        if step not in known:
            trial.report(float(record[metric]), step)
            known.add(step)
        if trial.should_prune():
            raise optuna.TrialPruned

    return report


def _write_results(study: optuna.Study, tuning: Tuning) -> list[TrialResult]:
    from train.tune_page import render

    rows = results(study, tuning.metric)
    table = [asdict(row) for row in rows]
    durable.write_json(tuning.out / "tune.json", {"metric": tuning.metric, "trials": table})
    durable.write_bytes(tuning.out / "tune.html", render(tuning.out.resolve().name, tuning.metric, rows).encode())
    return rows


def _last(trial: optuna.trial.FrozenTrial) -> float | None:
    return trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None


def _lock_path(tuning: Tuning, number: int) -> Path:
    return tuning.out / "trials" / f"{number:05d}.lock"


def _try_lock(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
