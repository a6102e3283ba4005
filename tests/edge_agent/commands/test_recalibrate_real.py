"""A real agent follows real jobs, with the shipped bundle on rendered bins: one that stays, one that is taken back.

Two jobs in a row take a minute and more: `pytest -m soak tests/edge_agent/commands/test_recalibrate_real.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bundle.images import encode_jpeg
from bundle.store import Store
from demo.render import render_bin
from demo.seeds import tour_seed
from tests.edge_agent.commands.sending import FINAL, Operator, fields
from tests.edge_agent.running import AgentProcess, config_text
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHIPPED = Path(__file__).resolve().parents[3] / "demo" / "bundle"
_BINS = 60
_JOB_S = 240.0

pytestmark = [pytest.mark.soak, pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")]


def _at_night(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grain = np.random.default_rng(1).normal(0, 15, picture.shape)
    return np.asarray(np.clip(picture * 0.3 + grain, 0, 255), np.uint8)


def _write(folder: Path, pictures: list[NDArray[np.uint8]]) -> None:
    """Replace every photo as a whole, so that the robot never reads half of one."""
    for number, shown in enumerate(pictures):
        fresh = folder / f"{number:04d}.part"
        fresh.write_bytes(encode_jpeg(shown, 92))
        fresh.rename(folder / f"{number:04d}.jpg")


def _digest_on_counts(operator: Operator, digest: str) -> bool:
    return bool(operator.of("/count")[-1]["bundle"].endswith(f"+{digest[:12]}"))


def test_agent_follows_a_job_that_stays_and_one_that_is_taken_back(tmp_path: Path) -> None:
    bins = [render_bin(tour_seed(9, number)) for number in range(_BINS)]
    pictures = [one.image_bgr for one in bins]
    photos = tmp_path / "photos"
    photos.mkdir()
    _write(photos, pictures)
    store = Store(tmp_path / "store")
    first = store.activate(store.install(_SHIPPED).digest)
    labels = {f"{number:04d}": one.count for number, one in enumerate(bins)}
    asked: dict[str, Any] = {"labels": labels, "risk": 0.15, "min_visits": 40, "max_visits": _BINS, "collect_s": _JOB_S}
    asked |= {"watch_visits": 30, "watch_s": _JOB_S, "ranges": False}
    with Mosquitto(tmp_path, "allow_anonymous true\nmax_queued_messages 20000") as broker:
        camera = "repeat = true\npause_s = 0.05"
        text = config_text(
            bundle=tmp_path / "store", source=photos, state=tmp_path / "state", port=broker.port, camera=camera
        )
        agent = AgentProcess.start(tmp_path, text)
        try:
            with Operator(broker.port) as operator:
                operator.wait_for_robot()

                operator.send("recalibrate", fields("job-that-stays", **asked))
                final = operator.final("job-that-stays", timeout_s=_JOB_S)
                new = store.current().digest
                assert (final["state"], final["detail"]["state"]) == ("succeeded", "activated")
                assert final["detail"]["after"]["digest"] == new != first.digest
                wait_until(lambda: _digest_on_counts(operator, new), what="a count by the new bundle")

                operator.send("recalibrate", fields("job-that-goes", **asked))
                _wait_for(operator, "job-that-goes", "fitting")
                _write(photos, [_at_night(picture) for picture in pictures])  # far more is unsure than was predicted
                _wait_for(operator, "job-that-goes", "watching")
                assert store.current().digest not in {first.digest, new}
                final = operator.final("job-that-goes", timeout_s=_JOB_S)
                assert (final["state"], final["reason"]) == ("failed", "not_better")
                assert "reverted" in final["words"]
                assert store.current().digest == new
                wait_until(lambda: _digest_on_counts(operator, new), what="a count by the bundle before")
        finally:
            assert agent.terminate() == 0


def _wait_for(operator: Operator, command_id: str, state: str) -> None:
    """Until the job has come to a state; one that is over before it fails the test with its words."""

    def come() -> bool:
        results = operator.results(command_id)
        over = [result["words"] for result in results if result["state"] in FINAL]
        assert not over, over
        return any(result["detail"].get("state") == state for result in results)

    wait_until(come, timeout_s=_JOB_S, what=f"{state} of {command_id}")
