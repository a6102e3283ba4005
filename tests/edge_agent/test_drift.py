from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.counter import Counter
from bundle.images import encode_jpeg
from bundle.preprocess import resize
from calibration.assess import Wish
from calibration.refit import Paths, refit_confidence
from demo.render import render_bin
from demo.seeds import tour_seed
from edge_agent.assemble import assemble
from edge_agent.visits.drift_watch import DriftWatch
from tests.calibration.scenes import scene, write_table
from tests.edge_agent.running import config_text, load_text
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto, Subscriber
from tests.simulators.bundle_factory import make_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_SHIPPED = Path(__file__).resolve().parents[2] / "demo" / "bundle"


@pytest.fixture(scope="module")
def bundle_with_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drift")
    paths = Paths(make_bundle(folder / "tiny"), write_table(folder / "v", 300, 1, noise=0.3), folder / "bundle")
    refit_confidence(paths, Wish(risk=0.1), now=datetime(2026, 3, 4, tzinfo=timezone.utc))
    return paths.out


def _pictures(seed: int, number: int, *, flat: bool) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    for _ in range(number):
        yield scene(rng, int(rng.integers(0, 6)) + rng.normal(0, 0.3), texture=4.0 if flat else 14.0)


def test_drift_watch_tells_each_camera_once_and_forgets_a_visit_that_was_given_up(bundle_with_reference: Path) -> None:
    counter = Counter.open(bundle_with_reference, engine="onnxruntime", threads=1)
    watch = DriftWatch(counter.bundle)
    told: dict[str, list[str]] = {"front": [], "rear": []}
    for camera, flat in (("front", False), ("rear", True)):
        for picture in _pictures(5, 60, flat=flat):
            small = resize(picture, counter.bundle.manifest.preprocessing)
            watch.frame(camera, np.zeros_like(small), counter.logits([small])[0])
            watch.forget(camera)
            watch.frame(camera, small, counter.logits([small])[0])
            event = watch.visit(camera, counter.count([small]))
            told[camera] += [] if event is None else [event.words]
    assert watch.visit("front", counter.count([small])) is None
    counter.close()
    assert told["front"] == []
    assert len(told["rear"]) == 1
    assert "contrast down" in told["rear"][0]


def test_drift_watch_of_the_shipped_bundle_tells_darker_bins_from_bins() -> None:
    counter = Counter.open(_SHIPPED, engine="onnxruntime", threads=1)
    watch = DriftWatch(counter.bundle)
    told: dict[str, list[str]] = {"front": [], "rear": []}
    for number in range(60):
        picture = render_bin(tour_seed(5, number)).image_bgr
        for camera, light in (("front", 1.0), ("rear", 0.45)):
            small = resize((picture * light).astype(np.uint8), counter.bundle.manifest.preprocessing)
            watch.frame(camera, small, counter.logits([small])[0])
            event = watch.visit(camera, counter.count([small]))
            told[camera] += [] if event is None else [event.words]
    counter.close()
    assert told["front"] == []
    (words,) = told["rear"]
    assert "brightness down" in words


def test_drift_watch_bundle_without_a_reference_watches_nothing(tiny_bundle: Path) -> None:
    counter = Counter.open(tiny_bundle, engine="onnxruntime", threads=1)
    watch = DriftWatch(counter.bundle)
    picture = np.zeros((8, 8, 3), np.uint8)
    watch.frame("front", picture, counter.logits([picture])[0])
    assert watch.visit("front", counter.count([picture])) is None
    counter.close()


@pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")
def test_agent_says_once_that_visits_drift_and_what(tmp_path: Path, bundle_with_reference: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, picture in enumerate(_pictures(7, 60, flat=True)):
        (photos / f"{number:04d}.jpg").write_bytes(encode_jpeg(picture, 95))
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        text = config_text(bundle=bundle_with_reference, source=photos, state=tmp_path / "state", port=broker.port)
        assemble(load_text(tmp_path, text)).run()
        wait_until(lambda: len(subscriber.of("/count")) == 60)
        (event,) = [json.loads(message.payload) for message in subscriber.of("/event")]
    assert (event["event"], event["severity"]) == ("drift", "warning")
    assert "contrast down" in event["problem"]
