"""What the fault runs share: a real broker that keeps its messages, and a log of what it delivered.

The log is written by `mosquitto_sub`, a program of its own with a session that the broker keeps, so that it stands
apart from the agent and from the test, and misses nothing while the agent dies.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from tests.simulators.broker import Mosquitto, wait_for_port

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

MOSQUITTO_SUB = shutil.which("mosquitto_sub")
KEEPING = (
    "allow_anonymous true\npersistence true\npersistence_location {folder}/\nautosave_interval 1\n"
    "max_queued_messages 0\nmax_queued_bytes 0"
)


class KeepingBroker(Mosquitto):
    """A mosquitto whose sessions and queues survive an orderly restart.

    Args:
        folder: For its configuration and its database.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, KEEPING.format(folder=folder))

    def stop(self) -> None:
        """Stop it in order: what it has acknowledged is on its disk. `start` brings it back on the same port."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)
        self._process = None

    def restart(self) -> None:
        """Stop it in order and start it again."""
        self.stop()
        self.start()


class DeliveryLog:
    """Every count that the broker delivered, in order of arrival, in a file.

    Args:
        port: Of the broker.
        file: Where to.
    """

    TOPIC = "bintally/v1/+/+/count"

    def __init__(self, port: int, file: Path) -> None:
        assert MOSQUITTO_SUB is not None
        self._file = file
        self._out = file.open("ab")
        wait_for_port(port)
        name = f"log-{time.monotonic_ns()}"
        command = [MOSQUITTO_SUB, "-p", str(port), "-t", self.TOPIC, "-q", "1", "-c", "-i", name, "-k", "5"]
        self._process = subprocess.Popen(command, stdout=self._out, stderr=subprocess.DEVNULL)
        self._offset = 0
        self.counts: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._out.close()

    def read(self) -> list[dict[str, Any]]:
        """What has arrived so far."""
        with self._file.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.counts += [json.loads(line) for line in whole.splitlines()]
        return self.counts

    def event_ids(self) -> list[str]:
        """Event ids in order of arrival, repeats included."""
        return [count["event_id"] for count in self.read()]

    def wait_for(self, wanted: set[str], timeout_s: float = 60.0) -> None:
        """Wait until all of these have arrived, or nothing more comes for two seconds."""
        deadline_s, seen, since_s = time.monotonic() + timeout_s, -1, time.monotonic()
        while not wanted <= set(self.event_ids()) and time.monotonic() < deadline_s:
            if len(self.counts) != seen:
                seen, since_s = len(self.counts), time.monotonic()
            elif time.monotonic() - since_s > 5.0:
                return
            time.sleep(0.05)
