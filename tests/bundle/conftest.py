"""TensorRT and CUDA as stand-ins, for every test of engines that asks for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bundle.engines import trt

if TYPE_CHECKING:
    from collections.abc import Iterator

_FAKES = Path(__file__).parent.parent / "simulators" / "nvidia"


def forget_nvidia() -> None:
    """Let the next import find TensorRT and CUDA anew, as another version if it was set."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("tensorrt", "cuda")]:
        del sys.modules[name]


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """TensorRT 10.3 and CUDA on a fake Orin, with an empty engine cache; builds run in this process."""
    monkeypatch.syspath_prepend(_FAKES)
    monkeypatch.setenv("BINTALLY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trt, "in_child", lambda work, *arguments, say, **_: work(say, *arguments))
    forget_nvidia()
    yield monkeypatch
    forget_nvidia()
