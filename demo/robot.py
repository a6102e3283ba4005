"""The robot of the tour: the real agent, as a process of its own, with a configuration like any other robot's.

Nothing of the agent is imported here. What is known of it is its command line, its configuration file and its messages.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bundle.errors import BintallyError
from demo.objects import ACCESS_KEY, REGION, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from demo.shelf import Shelf

SITE = "demo"
_STOP_TIMEOUT_S = 20.0
_LOG_LINES = 12


@dataclass(frozen=True, slots=True)
class RobotPlan:
    """What a robot's configuration says.

    Attributes:
        name: Of the robot; a level of its topics.
        bundle: Folder of the bundle.
        shelf: What its camera sees.
        broker: Host and port.
        bucket: Of the object store.
        endpoint_url: Of the object store.
        pause_s: Between photos of a folder.
        repeat: Start a folder or video again at its end.
    """

    name: str
    bundle: Path
    shelf: Shelf
    broker: tuple[str, int]
    bucket: str
    endpoint_url: str
    pause_s: float
    repeat: bool

    @property
    def topic(self) -> str:
        """The robot's topic, without a trailing slash."""
        return f"bintally/v1/{SITE}/{self.name}"


def configuration(plan: RobotPlan, folder: Path) -> str:
    """Write the agent's configuration.

    Args:
        plan: What it shall say.
        folder: Where state and credentials lie.

    Returns:
        TOML.
    """
    tables: list[tuple[str, dict[str, object]]] = [
        ("[robot]", {"site": SITE, "id": plan.name}),
        ("[bundle]", {"path": str(plan.bundle)}),
        ("[[cameras]]", _camera(plan)),
        ("[state]", {"path": str(folder / "state")}),
        ("[mqtt]", {"host": plan.broker[0], "port": plan.broker[1]}),
        (
            "[s3]",
            {
                "bucket": plan.bucket,
                "endpoint_url": plan.endpoint_url,
                "region": REGION,
                "credentials_file": str(folder / "credentials"),
            },
        ),
        # Without the random sample of confident visits: what is uploaded was unsure, or is not what the record says.
        ("[uploads]", {"audit_share": 0.0}),
        ("[telemetry]", {"interval_s": 1.0}),
    ]
    if plan.shelf.records is not None:
        tables.append(("[records]", {"file": str(plan.shelf.records)}))
    return "\n".join(f"{header}\n{_pairs(values)}" for header, values in tables)


def _camera(plan: RobotPlan) -> dict[str, object]:
    camera: dict[str, object] = {"name": "tour", "source": plan.shelf.source, "repeat": plan.repeat}
    if plan.shelf.frames is not None:
        camera["pause_s"] = plan.pause_s
    return camera


def _pairs(values: Mapping[str, object]) -> str:
    # What JSON writes for strings, whole numbers, fractions and booleans is also TOML, but for the sign DEL.
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n".replace("\x7f", "\\u007f") for key, value in values.items()
    )


class Robot:
    """The agent's process, for the length of a `with` block.

    Args:
        plan: What its configuration says.
        folder: Existing folder for configuration, state and log.
    """

    def __init__(self, plan: RobotPlan, folder: Path) -> None:
        self.plan = plan
        self._folder = folder
        self._log = folder / "agent.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Write the configuration and start the agent."""
        config = self._folder / "agent.toml"
        config.write_text(configuration(self.plan, self._folder), encoding="utf-8")
        keys = f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        (self._folder / "credentials").write_text(keys, encoding="utf-8")
        agent = [sys.executable, "-m", "bintally", "agent", "run", "--config", str(config)]
        leash = [sys.executable, "-m", "demo.leash", str(os.getpid())]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C at the terminal reaches the tour, which then stops the agent in good order.
            self._process = subprocess.Popen(
                [*leash, *agent],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(self._folder),
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make sure that it is gone: in good order, or at once after a second Ctrl-C."""
        if self._process is None or not self.is_running():
            return
        if kind is KeyboardInterrupt:
            os.killpg(self._process.pid, signal.SIGKILL)
        self.ask_to_stop()
        self.wait()

    def is_running(self) -> bool:
        """Tell whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Send SIGTERM: deliver what is accepted, then end."""
        if self._process is not None and self.is_running():
            self._process.terminate()

    def wait(self) -> None:
        """Wait for the end, and force it when it takes too long."""
        if self._process is None:
            return
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def check(self) -> None:
        """Complain if the agent ended otherwise than well.

        Raises:
            BintallyError: With its exit code and its last words.
        """
        code = None if self._process is None else self._process.poll()
        if code not in (None, 0):
            words = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = "\n".join(f"  | {line}" for line in words[-_LOG_LINES:]) or "  | (nothing)"
            raise BintallyError(f"the agent ended with exit code {code}. Its last words:\n{said}")


def _environment(folder: Path) -> dict[str, str]:
    """The surroundings of the agent: its packages, no cloud account of the user's, no proxy on the loopback."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    root = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment["TMPDIR"] = str(folder)  # ONNX Runtime leaves a file named .ses in the temporary folder
    local = "127.0.0.1,localhost"
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, (os.environ.get(name), local)))
    return environment
