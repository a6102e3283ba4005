"""Where built TensorRT engines are kept, and what is refused there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundle.engines.trt_cache import EngineCache, EngineKey, default_folder
from bundle.errors import EngineError

_KEY = EngineKey("a" * 64, "10.3.0", "Orin", "8.7", 12060, "driver 540.4.0", ("int8",))


def test_cache_keeps_the_newest_six(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    keys = [EngineKey(f"{number:064d}", "10", "Orin", "8.7", 1, "", ()) for number in range(9)]
    for number, key in enumerate(keys):
        cache.save(key, f"engine {number}".encode(), built_in_s=1)
    assert [cache.load(key) is not None for key in keys] == [False] * 3 + [True] * 6
    assert len(list((tmp_path / "engines").iterdir())) == 12


def test_cache_hash_belongs_to_the_engine(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.save(_KEY, b"engine", built_in_s=1)
    assert cache.load(_KEY) == (b"engine", 1.0)
    (tmp_path / f"{_KEY.digest()}.plan").write_bytes(b"another")
    assert cache.load(_KEY) is None


def test_cache_record_of_another_key_does_not_count(tmp_path: Path) -> None:
    """Someone renamed a whole pair of files: the record says what it really is."""
    cache = EngineCache(tmp_path)
    other = EngineKey("b" * 64, "10.3.0", "Orin", "8.7", 12060, _KEY.driver, ("int8",))
    cache.save(other, b"engine", built_in_s=1)
    for suffix in (".plan", ".json"):
        (tmp_path / f"{other.digest()}{suffix}").rename(tmp_path / f"{_KEY.digest()}{suffix}")
    assert cache.load(_KEY) is None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_cache_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "engines"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(EngineError, match="others may write"):
        EngineCache(folder)


def test_cache_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EngineError, match="cannot be used"):
        EngineCache(tmp_path / "file")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("BINTALLY_CACHE", "/somewhere", "/somewhere/engines"),
        ("CACHE_DIRECTORY", "/var/cache/bintally:/other", "/var/cache/bintally/engines"),
        ("XDG_CACHE_HOME", "/xdg", "/xdg/bintally/engines"),
    ],
)
def test_default_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    for name in ("BINTALLY_CACHE", "CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    assert default_folder() == Path(expected)
