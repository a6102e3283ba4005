"""The commands' half of the agent: from a configuration and its other half to a service that is ready to start."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edge_agent.commands.bundles import DeployHandler, RollbackHandler, Switch
from edge_agent.commands.desk import Desk
from edge_agent.commands.exchange import Exchange
from edge_agent.commands.memory import Memory
from edge_agent.commands.order import Results
from edge_agent.commands.recalibrate import RecalibrateHandler
from edge_agent.commands.runner import Runner
from edge_agent.commands.service import Commands, JobHandler, visit_answer
from edge_agent.commands.settings import Settings, kept_overrides
from edge_agent.commands.simple import CaptureHandler, PingHandler, SetHandler, SnapshotHandler
from edge_agent.commands.visit_requests import VisitRequests
from edge_agent.tuning import tuning
from edge_agent.visits.privacy import blur_outside
from edge_agent.visits.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import JsonValue

    from bundle.counter import Counter
    from edge_agent.commands.order import Handler
    from edge_agent.commands.schema import Overrides
    from edge_agent.config import AgentConfig
    from edge_agent.health.telemetry import Telemetry
    from edge_agent.messages import Topics
    from edge_agent.outbox.command_table import Remembered
    from edge_agent.outbox.outbox import Outbox


class CommandsKit:
    """What the frame path needs from the commands, and the commands from the frame path, in the order of making.

    Attributes:
        requests: For the frame path.
        recorder: For the frame path.

    Args:
        config: The agent's.
        topics: Of the robot.
        outbox: Stores results.
        telemetry: Counts what was refused.
        remembered: From the outbox's file.
    """

    def __init__(
        self, config: AgentConfig, topics: Topics, outbox: Outbox, telemetry: Telemetry, remembered: Remembered
    ) -> None:
        self._config = config
        self._outbox = outbox
        self._telemetry = telemetry
        self._remembered = remembered
        self._results = Results(config.robot.id, topics)
        self.requests = VisitRequests(visit_answer(self._results))
        self.recorder = Recorder(config.state.path / "visits", config.state.max_bytes // 4)

    def make(
        self, counter: Callable[[], Counter], version: str, prefix: str | None, moved: Callable[[], str]
    ) -> Commands:
        """Put the service together.

        Args:
            counter: What counts now.
            version: Of bintally.
            prefix: Of object keys; None when images go nowhere.
            moved: Which camera has moved against its profile, in words.

        Returns:
            The service, listening to the outbox.
        """
        config, results = self._config, self._results
        exchange, started_s = Exchange(), time.monotonic()
        cameras = [camera.name for camera in config.cameras]
        if config.uploads.blur_outside:
            regions = {camera.name: camera.region or () for camera in config.cameras}
            exchange.hide = lambda camera, image: blur_outside(image, regions[camera])

        def apply(overrides: Overrides) -> None:
            exchange.tune(tuning(config, overrides))

        def about() -> dict[str, JsonValue]:
            return {
                "version": version,
                "bundle": counter().bundle.label,
                "digest": counter().bundle.digest,
                "engine": counter().engine.name,
                "uptime_s": round(time.monotonic() - started_s, 1),
                "settings": settings.shown(),
            }

        settings = Settings(kept_overrides(self._remembered.settings), lambda: counter().threshold, apply)
        switch = Switch(config.bundle, exchange, lambda: counter().bundle.digest)
        long_ones: dict[str, Handler] = {
            "deploy": DeployHandler(config, switch),
            "rollback": RollbackHandler(switch),
            "recalibrate": RecalibrateHandler(switch, self.recorder, config.bundle.engine, moved),
        }
        jobs = Runner("jobs", long_ones, lambda: desk, results)
        at_once: dict[str, Handler] = {
            "ping": PingHandler(about),
            "set": SetHandler(settings),
            "capture": CaptureHandler(self.requests, cameras),
            "snapshot": SnapshotHandler(exchange, cameras, prefix),
            **{name: JobHandler(jobs) for name in long_ones},
        }
        quick = Runner("commands", at_once, lambda: desk, results)
        desk = Desk(Memory(self._remembered), results, self._outbox, self._telemetry, give=quick.give)
        self._outbox.on_stored = desk.stored
        return Commands(desk, quick, jobs, exchange, settings, self.recorder)
