"""Which engine wins, decided with engines whose speed and answers the test sets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.engines import choose
from bundle.engines.base import Engine
from bundle.engines.choose import ENGINES, open_engine, usable_engines
from bundle.engines.speed import Plan, best_block_ms, timed_block
from bundle.errors import ConfigError, EngineError
from bundle.golden import read_golden
from bundle.verify import Bundle, load_bundle
from tests.simulators.bundle_factory import write_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class _Known(Engine):
    """Gives the golden answers after a wait, or answers that are off."""

    def __init__(self, bundle: Bundle, name: str, *, role: str, wait_s: float = 0.0, error: float = 0.0) -> None:
        width, height = bundle.manifest.preprocessing.size_wh
        super().__init__(name, role=role, input_chw=(3, height, width), classes=len(bundle.manifest.count_classes))
        self._answers = read_golden(bundle, role).logits + np.float32(error)
        self._wait_s, self._calls, self.closed = wait_s, 0, False

    def _run(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self._wait_s)
        answer = self._answers[self._calls % len(self._answers)]
        self._calls += 1
        return np.repeat(answer[np.newaxis], len(tensor_nchw), axis=0)

    def close(self) -> None:
        self.closed = True


class _Clock:
    """Each reading is one step later."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_race_keeps_the_fastest_closes_the_rest_and_says_why(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    slow, fast = _Known(bundle, "slow", role="cpu", wait_s=0.02), _Known(bundle, "fast", role="cpu")
    winner = choose._race(bundle, [slow, fast], ["third refused: no such device"])
    assert winner is fast
    assert (slow.closed, fast.closed) == (True, False)
    assert fast.reason.startswith("fast ")
    assert "slow 2" in fast.reason
    assert fast.reason.endswith("third refused: no such device")


def test_open_engine_auto_prefers_a_right_answer_to_a_fast_one(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(tiny_bundle)
    wrong = _Known(bundle, "wrong", role="cpu", error=1.0)
    right = _Known(bundle, "right", role="cpu", wait_s=0.005)
    opened = iter([wrong, right])
    monkeypatch.setattr(choose, "usable_engines", lambda _: ("openvino", "onnxruntime"))
    monkeypatch.setattr(choose, "_open", lambda *_: next(opened))
    engine = open_engine(bundle)
    assert engine is right
    assert wrong.closed
    assert "openvino refused: engine wrong misses the golden frames" in engine.reason


def test_open_engine_nothing_passes_is_one_error_naming_every_refusal(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(tiny_bundle)
    monkeypatch.setattr(choose, "_open", lambda _, kind, *__: _Known(bundle, "off", role=kind.role, error=1.0))
    with pytest.raises(EngineError, match=r"no engine on this machine.*onnxruntime refused.*onnxruntime-fp32 refused"):
        open_engine(bundle)


def test_open_engine_bundle_fitted_on_the_reference_runs_the_reference(tiny_bundle: Path) -> None:
    content = load_bundle(tiny_bundle).manifest.model_dump(mode="json")
    content["calibration"]["fitted_on"] = "reference"
    write_manifest(tiny_bundle, content)
    with open_engine(load_bundle(tiny_bundle)) as engine:
        assert engine.role == "reference"


def test_open_engine_unknown_name_lists_the_known_ones(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected one of auto, .*onnxruntime"):
        open_engine(load_bundle(tiny_bundle), engine="tpu")


def test_open_engine_model_that_the_bundle_lacks_is_refused(tiny_bundle: Path) -> None:
    content = load_bundle(tiny_bundle).manifest.model_dump(mode="json")
    content["models"] = content["models"][:1]
    write_manifest(tiny_bundle, content)
    with pytest.raises(ConfigError, match="has no model for engine onnxruntime"):
        open_engine(load_bundle(tiny_bundle), engine="onnxruntime")


def test_usable_engines_are_named_engines(tiny_bundle: Path) -> None:
    usable = usable_engines(load_bundle(tiny_bundle))
    assert {"onnxruntime", "onnxruntime-fp32"} <= set(usable) <= set(ENGINES) - {"auto"}


def test_timed_block_has_at_least_five_calls_and_leaves_out_the_first() -> None:
    calls: list[int] = []
    latencies = timed_block(lambda: calls.append(1), 0.0, _Clock(0.001))
    assert len(latencies) == 5
    assert len(calls) == 8
    assert latencies[0] == pytest.approx(1.0)


def test_timed_block_lasts_as_long_as_asked() -> None:
    assert len(timed_block(lambda: None, 0.3, _Clock(0.01))) > 5


def test_best_block_ms_names_each_engine_in_order(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    engines = [_Known(bundle, name, role="cpu", wait_s=wait) for name, wait in (("a", 0.01), ("b", 0.0))]
    slow, fast = best_block_ms(engines, np.zeros((1, 3, 32, 32), np.float32), Plan(rounds=1, block_s=0.0))
    assert slow > 9
    assert fast < slow
