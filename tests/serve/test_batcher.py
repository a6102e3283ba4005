from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.counter import Counter
from bundle.engines.base import Engine
from bundle.errors import EngineError
from bundle.verify import load_bundle
from serve.batcher import Batcher, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


class Gated(Engine):
    """Answers when the test lets it; remembers the batches."""

    def __init__(self, *, fail: BaseException | None = None) -> None:
        super().__init__("gated", role="cpu", input_chw=(3, 32, 32), classes=7)
        self.batches: list[int] = []
        self.started, self.go = threading.Event(), threading.Event()
        self.closed, self._fail = False, fail

    def _run(self, tensor_nchw: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(len(tensor_nchw))
        self.started.set()
        assert self.go.wait(30)
        if self._fail:
            raise self._fail
        logits = np.zeros((len(tensor_nchw), 7), np.float32)
        logits[np.arange(len(tensor_nchw)), tensor_nchw[:, 0, 0, 0].astype(int)] = 20
        return logits

    def close(self) -> None:
        self.closed = True


def _frames(*counts: int) -> NDArray[np.float32]:
    return np.stack([np.full((3, 32, 32), count, np.float32) for count in counts])


@pytest.fixture
def engine() -> Gated:
    return Gated()


@pytest.fixture
def batcher(tiny_bundle: Path, engine: Gated) -> Iterator[Batcher]:
    made = Batcher(Counter(load_bundle(tiny_bundle), engine), max_batch=4, max_queue=5)
    yield made
    engine.go.set()
    made.close()


def _occupy(batcher: Batcher, engine: Gated) -> None:
    batcher.submit(_frames(0))
    assert engine.started.wait(30)


def test_batcher_alone_a_frame_goes_at_once(batcher: Batcher, engine: Gated) -> None:
    engine.go.set()
    assert batcher.submit(_frames(3)).result(30).argmax() == 3
    assert engine.batches == [1]


def test_batcher_what_waits_becomes_one_batch_and_each_gets_his_own(batcher: Batcher, engine: Gated) -> None:
    _occupy(batcher, engine)
    answers = [batcher.submit(_frames(count)) for count in (1, 2, 3, 4)]
    engine.go.set()
    assert [int(answer.result(30).argmax()) for answer in answers] == [1, 2, 3, 4]
    assert engine.batches == [1, 4]


def test_batcher_visit_that_no_longer_fits_opens_the_next_batch(batcher: Batcher, engine: Gated) -> None:
    _occupy(batcher, engine)
    answers = [batcher.submit(_frames(1, 1)), batcher.submit(_frames(2, 2, 2)), batcher.submit(_frames(3))]
    engine.go.set()
    assert [answer.result(30).shape[0] for answer in answers] == [2, 3, 1]
    assert [int(answer.result().argmax(axis=1)[0]) for answer in answers] == [1, 2, 3]
    assert engine.batches == [1, 2, 4]


def test_batcher_visit_larger_than_a_batch_is_answered(batcher: Batcher, engine: Gated) -> None:
    engine.go.set()
    assert batcher.submit(_frames(1, 2, 3, 4, 5, 6)).result(30).argmax(axis=1).tolist() == [1, 2, 3, 4, 5, 6]


def test_batcher_full_queue_is_refused_at_once(batcher: Batcher, engine: Gated) -> None:
    _occupy(batcher, engine)
    for _ in range(5):
        batcher.submit(_frames(1))
    with pytest.raises(OverloadedError, match="too many photos"):
        batcher.submit(_frames(1))


@pytest.mark.parametrize(
    "failure",
    [EngineError("the device is gone"), RuntimeError("the device is gone"), MemoryError("the device is gone")],
)
def test_batcher_failure_reaches_everyone_and_the_next_frame_is_answered(tiny_bundle: Path, failure: Exception) -> None:
    engine = Gated(fail=failure)
    batcher = Batcher(Counter(load_bundle(tiny_bundle), engine), max_batch=4, max_queue=5)
    first = batcher.submit(_frames(0))
    assert engine.started.wait(30)
    others = [batcher.submit(_frames(1)) for _ in range(2)]
    engine.go.set()
    for answer in (first, *others):
        with pytest.raises(EngineError, match="the device is gone"):
            answer.result(30)
    engine._fail = None
    assert batcher.submit(_frames(5)).result(30).argmax() == 5
    batcher.close()


def test_batcher_close_answers_what_is_queued_and_frees_the_engine(batcher: Batcher, engine: Gated) -> None:
    _occupy(batcher, engine)
    answers = [batcher.submit(_frames(count)) for count in (1, 2)]
    engine.go.set()
    batcher.close()
    assert [int(answer.result(0).argmax()) for answer in answers] == [1, 2]
    assert engine.closed
    assert not batcher.alive()
    with pytest.raises(OverloadedError, match="stopping"):
        batcher.submit(_frames(1))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_batcher_dead_thread_leaves_nobody_waiting(tiny_bundle: Path) -> None:
    """Neither a caller in the full queue nor `close`."""
    engine = Gated(fail=SystemExit("the thread ends"))
    batcher = Batcher(Counter(load_bundle(tiny_bundle), engine), max_batch=1, max_queue=2)
    batcher.submit(_frames(0))
    assert engine.started.wait(30)
    waiting = [batcher.submit(_frames(count)) for count in (1, 2)]
    engine.go.set()
    for answer in waiting:
        with pytest.raises(OverloadedError, match="stopping"):
            answer.result(30)
    assert not batcher.alive()
    batcher.close()
    assert engine.closed


def test_batcher_close_refuses_what_is_not_answered_in_time(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Gated()
    batcher = Batcher(Counter(load_bundle(tiny_bundle), engine), max_batch=1, max_queue=2)
    _occupy(batcher, engine)
    waiting = [batcher.submit(_frames(count)) for count in (1, 2)]
    monkeypatch.setattr("serve.batcher._DRAIN_S", 0.0)
    monkeypatch.setattr("serve.batcher._JOIN_S", 0.0)
    batcher.close()
    assert not engine.closed  # a batch is running on it
    engine.go.set()
    for answer in waiting:
        with pytest.raises(OverloadedError, match="stopping"):
            answer.result(30)
    assert engine.batches == [1]
