"""Tuning: the search space as a table, a journal that survives torn writes, trials that survive kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

pytest.importorskip("optuna", reason="tuning needs the package optuna")

from bundle.errors import ConfigError, InputError
from tests.train.tiny import CONFIG, make_dataset
from train.cli_tune import tune as tune_command
from train.journal import cut_torn_line, open_journal
from train.memory import OutOfMemoryError
from train.place import Place
from train.progress import Silent
from train.search import Choices, Range, parse_space
from train.tune import Tuning, tune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

_DEADLINE_S = 120.0
SPACE = {"optimizer.lr": Range(1e-3, 1e-1, log=True)}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)
        yield


def _tuning(out: Path, **changes: Any) -> Tuning:  # noqa: ANN401 - fields of Tuning
    fields: dict[str, Any] = {"out": out, "base": CONFIG | {"epochs": 1}, "space": SPACE, "trials": 2, "prune": False}
    return Tuning(**fields | changes)


def _place(dataset: Path) -> Place:
    return Place(dataset=dataset, out=dataset, device="cpu", threads=1, workers=0)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("optimizer.lr=1e-5..1e-1:log", "optimizer.lr", Range(1e-5, 1e-1, log=True)),
        ("optimizer.momentum=0.8..0.99", "optimizer.momentum", Range(0.8, 0.99)),
        ("epochs=10..20", "epochs", Range(10, 20)),
        ("batch_size={32, 64,128}", "batch_size", Choices((32, 64, 128))),
        ("model.name={resnet18,mobilenet_v2}", "model.name", Choices(("resnet18", "mobilenet_v2"))),
        ("model.frozen={true,false}", "model.frozen", Choices((True, False))),
    ],
)
def test_parse_space_reads_each_form(text: str, key: str, expected: Range | Choices) -> None:
    assert parse_space([text]) == {key: expected}


@pytest.mark.parametrize("text", ["lr", "lr=", "lr=1", "lr=2..1", "lr=0..1:log", "lr={1}", "lr=a..b", "lr=1..2:exp"])
def test_parse_space_nonsense_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ConfigError, match="search"):
        parse_space([text])


def test_tune_writes_a_table_best_first_and_a_page(tiny_dataset: Path, tmp_path: Path) -> None:
    rows = tune(_tuning(tmp_path / "t", trials=3), _place(tiny_dataset), progress=Silent())
    values = [row.value for row in rows if row.value is not None]
    assert values == sorted(values)
    assert {row.state for row in rows} == {"complete"}
    assert len(json.loads((tmp_path / "t" / "tune.json").read_text())["trials"]) == 3
    assert (tmp_path / "t" / "tune.html").read_text().count("<circle") == 3
    assert (tmp_path / "t" / "trials" / "00000" / "report.html").is_file()


def test_tune_again_adds_only_what_is_missing(tiny_dataset: Path, tmp_path: Path) -> None:
    first = tune(_tuning(tmp_path / "t"), _place(tiny_dataset), progress=Silent())
    second = tune(_tuning(tmp_path / "t", trials=3), _place(tiny_dataset), progress=Silent())
    assert {row.number: row.value for row in first}.items() <= {row.number: row.value for row in second}.items()
    assert len(second) == 3


def test_tune_trial_that_diverges_fails_and_the_study_goes_on(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.loop.learning_rate", lambda *_: float("nan"))
    rows = tune(_tuning(tmp_path / "t"), _place(tiny_dataset), progress=Silent())
    assert [row.state for row in rows] == ["fail", "fail"]
    assert "not a number" in rows[0].why


@pytest.mark.parametrize("error", [OutOfMemoryError("no memory"), ConfigError("there is no such network")])
def test_tune_trial_that_cannot_be_trained_fails_and_the_study_goes_on(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    outcomes: Iterator[Exception | None] = iter([error, None])

    def fake(*_: object, **__: object) -> dict[str, float]:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return {"rmse_posterior_mean": 1.0}

    monkeypatch.setattr("train.tune.train", fake)
    rows = tune(_tuning(tmp_path / "t"), _place(tiny_dataset), progress=Silent())
    assert [(row.number, row.state, row.why) for row in rows] == [(1, "complete", ""), (0, "fail", str(error))]


def test_tune_disk_that_refuses_ends_the_tuning_and_keeps_the_trial(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> dict[str, float]:
        raise InputError("the disk is full")

    tuning = _tuning(tmp_path / "t", trials=1)
    with monkeypatch.context() as patch:
        patch.setattr("train.tune.train", refuse)
        with pytest.raises(InputError, match="disk is full"):
            tune(tuning, _place(tiny_dataset), progress=Silent())
    monkeypatch.setattr("train.tune.train", lambda *_, **__: {"rmse_posterior_mean": 1.0})
    assert [row.state for row in tune(tuning, _place(tiny_dataset), progress=Silent())] == ["complete"]


@pytest.mark.parametrize(
    ("key", "dimension"),
    [
        ("optimizer.typo", Range(0.1, 0.2)),
        ("optimizer.lr", Range(-1.0, 0.1)),
        ("ema", Range(0.5, 1.0)),
        ("batch_size", Choices((8, 0))),
    ],
)
def test_tune_space_that_no_training_takes_is_refused_before_the_study_is_made(
    tiny_dataset: Path, tmp_path: Path, key: str, dimension: Range | Choices
) -> None:
    with pytest.raises(ConfigError, match=key):
        tune(_tuning(tmp_path / "t", space={key: dimension}), _place(tiny_dataset), progress=Silent())
    assert not (tmp_path / "t").exists()


def _tune_quickly(out: Path, place: Place, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    monkeypatch.setattr("train.tune.train", lambda *_, **__: {"rmse_posterior_mean": 1.0})
    tune(_tuning(out, trials=1, **changes), place, progress=Silent())


def test_tune_another_dataset_in_the_same_folder_is_refused(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tune_quickly(tmp_path / "t", _place(tiny_dataset), monkeypatch)
    with pytest.raises(ConfigError, match="another dataset"):
        _tune_quickly(tmp_path / "t", _place(make_dataset(tmp_path, 40)), monkeypatch)


def test_tune_other_weights_in_the_same_folder_are_refused(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, path = CONFIG | {"model.weights": "file"}, tmp_path / "weights.pt"
    place = Place(dataset=tiny_dataset, out=tiny_dataset, weights=path)
    path.write_bytes(b"first")
    _tune_quickly(tmp_path / "t", place, monkeypatch, base=base)
    path.write_bytes(b"second")
    with pytest.raises(ConfigError, match="another weights"):
        _tune_quickly(tmp_path / "t", place, monkeypatch, base=base)


def test_tune_study_of_an_earlier_version_learns_its_dataset_from_its_trials(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(_tuning(tmp_path / "t", trials=1), _place(tiny_dataset), progress=Silent())
    path = tmp_path / "t" / "study.json"
    now = json.loads(path.read_text())
    path.write_text(json.dumps({key: now[key] for key in ("metric", "space", "base")}))
    with pytest.raises(ConfigError, match="another dataset"):
        _tune_quickly(tmp_path / "t", _place(make_dataset(tmp_path, 40)), monkeypatch)
    _tune_quickly(tmp_path / "t", _place(tiny_dataset), monkeypatch)
    assert json.loads(path.read_text()) == now


def test_tune_another_search_in_the_same_folder_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    tune(_tuning(tmp_path / "t", trials=1), _place(tiny_dataset), progress=Silent())
    with pytest.raises(ConfigError, match="searches something else"):
        tune(_tuning(tmp_path / "t", metric="accuracy"), _place(tiny_dataset), progress=Silent())


def test_tune_unknown_metric_lists_the_known(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="within_1"):
        tune(_tuning(tmp_path / "t", metric="acc"), _place(tiny_dataset), progress=Silent())


def test_tune_trial_that_the_pruner_ends_stops_after_that_epoch(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    tuning = _tuning(tmp_path / "t", base=CONFIG | {"epochs": 2}, trials=3, prune=True)
    rows = tune(tuning, _place(tiny_dataset), progress=Silent())
    assert {row.number: (row.state, row.epochs) for row in rows} == {
        0: ("complete", 2),
        1: ("pruned", 1),
        2: ("complete", 2),
    }


class _PulledPlug(BaseException):
    """Stands for a power cut."""


def test_tune_plug_pulled_between_checkpoint_and_report_loses_no_epoch(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    def pull(*_: object) -> None:
        raise _PulledPlug

    tuning = _tuning(tmp_path / "t", base=CONFIG | {"epochs": 3}, trials=1)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "report", pull)
        with pytest.raises(_PulledPlug):
            tune(tuning, _place(tiny_dataset), progress=Silent())
    (row,) = tune(tuning, _place(tiny_dataset), progress=Silent())
    assert (row.state, row.epochs) == ("complete", 3)


def test_tune_command_prints_the_table(tiny_dataset: Path, tmp_path: Path) -> None:
    fixed = [word for key, value in CONFIG.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    found = CliRunner().invoke(
        tune_command,
        [
            *(str(tiny_dataset), "--out", str(tmp_path / "t"), "--trials", "1", "--json", "--threads", "1"),
            *("--search", "optimizer.lr=1e-3..1e-2:log", *fixed, "--set", "epochs=1"),
        ],
        catch_exceptions=False,
    )
    (row,) = json.loads(found.stdout)["trials"]
    assert 1e-3 <= row["params"]["optimizer.lr"] <= 1e-2
    assert row["state"] == "complete"


def test_tune_command_bad_fixed_value_is_named_before_the_first_trial(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epochs"):
        CliRunner().invoke(
            tune_command,
            [str(tiny_dataset), "--out", str(tmp_path / "t"), "--set", "epochs=none"],
            catch_exceptions=False,
        )
    assert not (tmp_path / "t").exists()


def _tune_beside(code: str, out: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """`tune --parallel 2` whose other process runs this code."""
    monkeypatch.setattr("train.cli_tune._alone", lambda _: [sys.executable, "-c", code])
    monkeypatch.setattr("train.tune.train", lambda *_, **__: {"rmse_posterior_mean": 1.0})
    command = [str(dataset), "--out", str(out), "--trials", "1", "--parallel", "2", "--json"]
    return CliRunner().invoke(tune_command, command, catch_exceptions=False)


def test_tune_parallel_process_that_fails_is_the_exit_code_and_the_table_is_whole(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _tune_beside("raise SystemExit(65)", tmp_path / "t", tiny_dataset, monkeypatch)
    assert found.exit_code == 65
    assert [row["state"] for row in json.loads(found.stdout)["trials"]] == ["complete"]


def test_tune_parallel_sigterm_while_waiting_reaches_the_other_process(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    code = (
        "import os, pathlib, signal, sys, time\n"
        f"told, table = pathlib.Path({str(told)!r}), pathlib.Path({str(tmp_path / 't' / 'tune.json')!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: (told.touch(), sys.exit(75)))\n"
        "while not table.exists(): time.sleep(0.01)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # or a tune that does not listen would end the tests
    try:
        found = _tune_beside(code, tmp_path / "t", tiny_dataset, monkeypatch)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found.exit_code == 75
    assert told.exists()


@pytest.mark.parametrize("torn", [b'{"op_code":4,"worker', b"x" * 10_000])
def test_journal_torn_last_line_is_cut_and_the_study_loads(tmp_path: Path, torn: bytes) -> None:
    import optuna

    path = tmp_path / "journal.log"
    study = optuna.create_study(storage=open_journal(path), study_name="s")
    study.tell(study.ask(), 1.0)
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(torn)
    again = optuna.create_study(storage=open_journal(path), study_name="s", load_if_exists=True)
    again.tell(again.ask(), 2.0)
    assert path.read_bytes().startswith(whole)
    assert [trial.value for trial in optuna.load_study(storage=open_journal(path), study_name="s").trials] == [1.0, 2.0]


def test_journal_other_process_killed_in_its_append_does_not_poison_a_live_one(tmp_path: Path) -> None:
    import optuna

    path = tmp_path / "journal.log"
    alive = optuna.create_study(storage=open_journal(path), study_name="s")
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"half')
    alive.tell(alive.ask(), 1.0)
    loaded = optuna.load_study(storage=open_journal(path), study_name="s")
    assert [trial.value for trial in loaded.trials] == [1.0]


def test_cut_torn_line_keeps_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    assert cut_torn_line(path) == 0
    path.write_bytes(b"one\ntwo\n")
    assert cut_torn_line(path) == 0
    path.write_bytes(b"never ended")
    assert cut_torn_line(path) == 11
    assert path.read_bytes() == b""


def test_tune_killed_inside_a_trial_takes_that_trial_up_again(
    repository: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "t"
    base = CONFIG | {"epochs": 15}
    code = (
        "import sys; from pathlib import Path; from tests.train.test_tune import _place, _tuning\n"
        "from train.progress import Silent; from train.tune import tune\n"
        f"tune(_tuning(Path(sys.argv[1]), base={base!r}, trials=1), _place(Path(sys.argv[2])), progress=Silent())"
    )
    command = [sys.executable, "-c", code, str(out), str(tiny_dataset)]
    process = subprocess.Popen(command, cwd=repository)
    stream = out / "trials" / "00000" / "checkpoint.pt"
    deadline = time.monotonic() + _DEADLINE_S
    while not stream.exists():
        assert process.poll() is None, "the tuning ended early"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=_DEADLINE_S)
    # The dead process tore the journal as well.
    with (out / "journal.log").open("ab") as file:
        file.write(b'{"op_code":')
    said = _Lines()
    (row,) = tune(_tuning(out, base=base, trials=1), _place(tiny_dataset), progress=said)
    assert (row.number, row.state, row.epochs) == (0, "complete", 15)
    assert any("going on from epoch" in line for line in said.lines)


class _Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)
