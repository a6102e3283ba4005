from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bundle.errors import ConfigError
from train.config import TrainConfig, load_config, parse_counts

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1-5", ("1", "2", "3", "4", "5")),
        ("0-2+", ("0", "1", "2+")),
        ("0,1,2+", ("0", "1", "2+")),
        (" 3-4 ", ("3", "4")),
    ],
)
def test_parse_counts_range_or_list_gives_classes(text: str, expected: tuple[str, ...]) -> None:
    assert parse_counts(text) == expected


@pytest.mark.parametrize("text", ["", "5-1", "1,3", "1+,2", "one", "3-3", "1-5-9", "-1-3"])
def test_parse_counts_nonsense_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="count classes"):
        parse_counts(text)


def test_load_config_flags_win_over_toml(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text('epochs = 3\ncounts = ["1", "2"]\n[optimizer]\nlr = 0.5\nname = "sgd"\n')
    found = load_config(path, [("optimizer.lr", 0.25)])
    assert (found.epochs, found.counts, found.optimizer.lr, found.optimizer.name) == (3, ("1", "2"), 0.25, "sgd")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.learning_rate", 0.1),
        ("optimizer.lr", -1),
        ("optimizer.lr", float("nan")),
        ("epochs", 0),
        ("counts", ["1", "3"]),
        ("loss.neighbour", "hinge"),
    ],
)
def test_load_config_bad_value_names_the_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_config(None, [(key, value)])


def test_load_config_broken_toml_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text("epochs = = 3")
    with pytest.raises(ConfigError, match=r"train\.toml"):
        load_config(path)


def test_supervise_narrower_than_counts_is_refused() -> None:
    with pytest.raises(ConfigError, match="supervise must contain"):
        load_config(None, [("counts", ["1", "2", "3"]), ("supervise", ["1", "2"])])


def test_supervise_closed_top_does_not_cover_an_open_one() -> None:
    # "6+" is another class than the "6" of 0-10+: its probability would be a sum, which no head row holds.
    with pytest.raises(ConfigError, match="supervise must contain"):
        load_config(None, [("counts", list(parse_counts("0-6+"))), ("supervise", list(parse_counts("0-10+")))])


def test_readout_is_where_counts_lie_in_supervise() -> None:
    found = load_config(None, [("counts", ["1", "2"]), ("supervise", ["0", "1", "2", "3+"])])
    assert found.learned[found.readout] == ("1", "2")


def test_digest_changes_with_any_value_and_not_with_order() -> None:
    first = load_config(None, [("epochs", 3), ("seed", 1)])
    assert first.digest() == load_config(None, [("seed", 1), ("epochs", 3)]).digest()
    assert first.digest() != load_config(None, [("seed", 2), ("epochs", 3)]).digest()


def test_size_at_follows_the_stages() -> None:
    found = load_config(None, [("stages", [{"epoch": 0, "size": 64}, {"epoch": 2, "size": 96}])])
    assert [found.size_at(epoch) for epoch in range(4)] == [64, 64, 96, 96]
    assert TrainConfig().size_at(7) == TrainConfig().model.size
