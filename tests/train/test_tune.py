"""Tuning: the search space as a table, a journal that survives torn writes, trials that survive kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("optuna", reason="tuning needs the package optuna")

from bundle.errors import ConfigError
from tests.train.tiny import CONFIG
from train.job import Place
from train.journal import cut_torn_line, open_journal
from train.progress import Silent
from train.search import Choices, Range, parse_space
from train.tune import Tuning, tune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DEADLINE_S = 120.0
SPACE = {"optimizer.lr": Range(1e-3, 1e-1, log=True)}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)
        yield


def _tuning(out: Path, **changes: Any) -> Tuning:  # noqa: ANN401 - fields of Tuning
    fields = {"out": out, "base": CONFIG | {"epochs": 1}, "space": SPACE, "trials": 2, "prune": False}
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


def test_tune_another_search_in_the_same_folder_is_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    tune(_tuning(tmp_path / "t", trials=1), _place(tiny_dataset), progress=Silent())
    with pytest.raises(ConfigError, match="searches something else"):
        tune(_tuning(tmp_path / "t", metric="accuracy"), _place(tiny_dataset), progress=Silent())


def test_tune_unknown_metric_lists_the_known(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="within_1"):
        tune(_tuning(tmp_path / "t", metric="acc"), _place(tiny_dataset), progress=Silent())


def test_tune_trial_behind_the_others_is_pruned(tiny_dataset: Path, tmp_path: Path) -> None:
    # Five good trials set the median; a rate of almost nothing stays behind it.
    base = CONFIG | {"epochs": 3}
    good = _tuning(tmp_path / "t", base=base, space={"optimizer.lr": Choices((0.01, 1e-9))}, trials=14, prune=True)
    rows = tune(good, _place(tiny_dataset), progress=Silent())
    pruned = [row for row in rows if row.state == "pruned"]
    assert all(row.epochs < 3 for row in pruned)
    assert all(row.epochs == 3 for row in rows if row.state == "complete")


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
    base = CONFIG | {"epochs": 30}
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
    assert (row.number, row.state, row.epochs) == (0, "complete", 30)
    assert any("going on from epoch" in line for line in said.lines)


class _Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)
