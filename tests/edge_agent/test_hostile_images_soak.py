"""Ten thousand hostile images to a real agent; prints its figures.

`pytest -m soak -s tests/edge_agent/test_hostile_images_soak.py`
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bundle.images import encode_jpeg
from demo.render import render_bin
from tests.edge_agent.running import AgentProcess, config_text
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import MOSQUITTO, Mosquitto, Subscriber
from tests.simulators.bundle_factory import grey
from tests.simulators.hostile_images import REFUSED, WAYS, hostile_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="no mosquitto binary")

_SEED, _AMOUNT, _QUICK = 7, 10_000, 150
_GOOD_SHARE = 0.05
_FLAT_MIB = 4.0
_LONGEST_S = 5.0
_ODD_NAMES = (
    "a+b#c", "it's \"quoted\"", "$(reboot)", "-rf", "line\nbreak", "b\udcffin", "\u00fcn\u00ef \u7bb1", "..", "%s%n",
    "x" * 200,
)  # fmt: skip
_LAST = "zzz-a-file-that-became-a-pipe.jpg"


def sound(count: int, number: int) -> NDArray[np.uint8]:
    """A photo that the tiny bundle counts as `count`, different from every other."""
    noise = np.random.default_rng(number).integers(-3, 4, (48, 64, 3))
    photo: NDArray[np.uint8] = np.clip(grey(count).astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return photo


def rendered() -> list[NDArray[np.uint8]]:
    return [render_bin(seed, size_wh=(200, 160)).image_bgr for seed in range(4)]


@dataclass(slots=True)
class Folder:
    """What was put into the folder.

    Attributes:
        good: Count per name of a sound photo.
        hostile: Way per name.
    """

    good: dict[str, int] = field(default_factory=dict)
    hostile: dict[str, str] = field(default_factory=dict)


def fill(folder: Path, amount: int) -> Folder:
    """Hostile images, sound photos between them, and what is no file at all."""
    folder.mkdir()
    rng, placed = random.Random(_SEED), Folder()
    for number, (way, suffix, data) in enumerate(hostile_images(_SEED, amount, rendered())):
        name = f"{number:05d}{suffix}"
        (folder / name).write_bytes(data)
        placed.hostile[name] = way
        if number < len(_ODD_NAMES) or rng.random() < _GOOD_SHARE:
            odd = f"-{_ODD_NAMES[number]}" if number < len(_ODD_NAMES) else ""
            good = f"{number:05d}-good{odd}.jpg"
            count = rng.randrange(6)
            (folder / good).write_bytes(encode_jpeg(sound(count, number), 95))
            placed.good[good.encode("utf-8", "surrogateescape").decode("utf-8", "replace")] = count
    (folder / "a-folder.jpg").mkdir()
    os.mkfifo(folder / "a-pipe.jpg")
    for name, target in (("loop", "loop.jpg"), ("nowhere", "gone"), ("device", "/dev/zero"), ("up", "..")):
        (folder / f"{name}.jpg").symlink_to(target)
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(1 << 32)
    placed.hostile["sparse.png"] = "zeros"
    return placed


def rss_kib(pid: int, key: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith(key)), 0)


@dataclass(slots=True)
class Watch:
    """Looks at the agent and its capture process while they work.

    Attributes:
        captures: Ids of the capture processes.
        memory: KiB of the agent and of the capture process (without what both share), look by look.
        longest_s: Between two outcomes, whichever photos they are of.
    """

    captures: list[int] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)
    longest_s: float = 0.0
    outcomes: int = 0
    _seen: int = 0
    _last_s: float = 0.0

    def look(self, pid: int, subscriber: Subscriber) -> None:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        except OSError:
            return
        self.captures += [int(child) for child in children if int(child) not in self.captures]
        agent, capture = rss_kib(pid, "VmRSS"), sum(rss_kib(int(child), "RssAnon") for child in children)
        if agent and capture and self.outcomes:
            self.memory.append((agent, capture))
        fresh, now_s = subscriber.messages[self._seen :], time.monotonic()
        self._seen += len(fresh)
        found = sum(m.topic.endswith("/count") or b'"photo_refused"' in m.payload for m in fresh)
        if found:
            self.longest_s = max(self.longest_s, now_s - self._last_s if self.outcomes else 0.0)
            self.outcomes, self._last_s = self.outcomes + found, now_s

    def growth_mib(self, which: int) -> float:
        """Median of the last quarter over that of the third."""
        late = [look[which] for look in self.memory[len(self.memory) // 2 :]]
        middle = len(late) // 2
        return round((statistics.median(late[middle:]) - statistics.median(late[:middle])) / 1024, 2)

    def shown_mib(self, which: int) -> list[float]:
        return [round(look[which] / 1024, 1) for look in self.memory[:: max(1, len(self.memory) // 10)]]


def outcomes(subscriber: Subscriber) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """What was counted, by bin, and what was refused, by file."""
    counted: dict[str, list[str]] = {}
    refused: dict[str, list[str]] = {}
    for message in subscriber.of("/count"):
        fields = json.loads(message.payload)
        counted.setdefault(fields["bin_id"], []).append(fields["label"])
    for message in subscriber.of("/event"):
        fields = json.loads(message.payload)
        if fields["event"] == "photo_refused":
            refused.setdefault(fields["subject"], []).append(fields["problem"])
    return counted, refused


@pytest.mark.parametrize(
    "amount", [pytest.param(_QUICK, marks=pytest.mark.slow), pytest.param(_AMOUNT, marks=pytest.mark.soak)]
)
def test_hostile_images_crash_nothing_and_every_good_photo_is_counted_once(
    amount: int, tmp_path: Path, tiny_bundle: Path
) -> None:
    placed, watch = fill(tmp_path / "photos", amount), Watch()
    pipe = tmp_path / "photos" / _LAST
    if amount == _AMOUNT:  # the last one holds the capture process for ever: it is killed, and finds no file there
        pipe.write_bytes(encode_jpeg(sound(1, 0)))
    with (
        Mosquitto(tmp_path, "allow_anonymous true\nmax_queued_messages 100000") as broker,
        Subscriber(broker.port) as subscriber,
    ):
        source = tmp_path / "photos"
        text = config_text(bundle=tiny_bundle, source=source, state=tmp_path / "state", port=broker.port)
        began_s = time.monotonic()
        agent = AgentProcess.start(tmp_path, text)
        while not agent.ended:
            watch.look(agent.process.pid, subscriber)
            if watch.outcomes and pipe.exists() and not pipe.is_fifo():
                pipe.unlink()
                os.mkfifo(pipe)
            time.sleep(0.02)
        took_s = time.monotonic() - began_s
        code = agent.wait()
        expected = len(placed.good) + len(placed.hostile)
        assert code == 0, agent.stderr[-20:]
        left_out = agent.totals["photos_refused"]
        wait_until(lambda: sum(map(len, outcomes(subscriber)[0].values())) >= agent.totals["accepted"])
    counted, refused = outcomes(subscriber)
    by_way: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    for name, way in placed.hostile.items():
        by_way[way].update(files=1, counted=len(counted.get(Path(name).stem, [])))
    figures: dict[str, Any] = {
        "seed": _SEED,
        "hostile": len(placed.hostile),
        "good": len(placed.good),
        "counted": sum(map(len, counted.values())),
        "refused": left_out,
        "refusals_told_by_name": len(refused),
        "by_way": {way: dict(found) for way, found in by_way.items()},
        "capture_processes": len(watch.captures),
        "exit_code": code,
        "seconds": round(took_s, 1),
        "longest_between_two_outcomes_s": round(watch.longest_s, 2),
        "agent_mib": watch.shown_mib(0),
        "capture_mib": watch.shown_mib(1),
        "growth_mib": [watch.growth_mib(0), watch.growth_mib(1)],
    }
    print(json.dumps(figures))  # noqa: T201 - the figures
    assert {name: counted.get(Path(name).stem) for name in placed.good} == {
        name: [str(count)] for name, count in placed.good.items()
    }
    by_name = {name: len(counted.get(Path(name).stem, [])) for name in placed.hostile}
    assert set(by_name.values()) <= {0, 1}
    assert not [name for name, way in placed.hostile.items() if way in REFUSED and by_name[name]]
    assert sum(map(len, counted.values())) + left_out == expected
    assert len(refused) >= 20  # after so many they are held back, and the number of the others is told
    assert set(refused) <= set(placed.hostile)
    assert all(all(problems) for problems in refused.values())
    assert len(watch.captures) == (1 if amount == _QUICK else 2), agent.stderr[-20:]
    if amount == _AMOUNT:
        assert watch.longest_s < _LONGEST_S
        assert max(watch.growth_mib(0), watch.growth_mib(1)) < _FLAT_MIB
