"""Telemetry for Prometheus: a page on the loopback, off unless `telemetry.prometheus_port` is set.

The page repeats the last telemetry message; asking costs the agent nothing. One thread answers one reader at a time,
and gives each a few seconds; every other path is 404.
"""

from __future__ import annotations

import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.messages import State, TelemetryMessage

_LOG = logging.getLogger(__name__)

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_READER_TIMEOUT_S = 5.0
_LOOPBACK = "127.0.0.1"
_CUMULATIVE = frozenset({"frames", "photos_refused", "accepted", "delivered", "refused", "unsure", "uploaded"})


def exposition(message: TelemetryMessage, state: State) -> str:
    """Write telemetry in Prometheus' text format.

    Args:
        message: The numbers.
        state: What the agent does.

    Returns:
        Lines, each ended.
    """
    lines: list[str] = []
    for name, kind, samples in _metrics(message, state):
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines.append(f"# TYPE bintally_{name} {kind}")
            lines.extend(f"bintally_{name}{{{_labels(message.robot, labels)}}} {value!r}" for labels, value in known)
    return "".join(f"{line}\n" for line in lines)


_Samples = list[tuple[dict[str, str], float | None]]


def _metrics(message: TelemetryMessage, state: State) -> Iterator[tuple[str, str, _Samples]]:
    yield "state", "gauge", [({"state": name}, float(name == state)) for name in ("online", "degraded")]
    for name in sorted(_CUMULATIVE & set(message.totals)):
        yield f"{name}_total", "counter", [({}, message.totals[name])]
    yield "queue", "gauge", [({"what": name}, value) for name, value in message.queue.items()]
    yield "drops_total", "counter", [({"reason": name}, value) for name, value in message.drops.items()]
    latencies: _Samples = []
    for stage, found in message.latency.items():
        latencies += [
            ({"stage": stage, "quantile": quantile}, None if value is None else value / 1e3)
            for quantile, value in (("0.5", found.p50_ms), ("0.99", found.p99_ms))
        ]
    yield "latency_seconds", "gauge", latencies
    single = {
        "uptime_seconds": message.uptime_s,
        "fps": message.fps,
        "disk_free_bytes": message.disk_free_bytes,
        "rss_bytes": message.rss_bytes,
        "temperature_celsius": message.temperature_c,
        "throttled": message.throttled,
        "over_current_events": message.over_current_events,
        "clock_synchronised": message.clock_synchronised,
        "clock_max_error_seconds": None if message.clock_max_error_ms is None else message.clock_max_error_ms / 1e3,
    }
    for name, value in single.items():
        yield name, "gauge", [({}, None if value is None else float(value))]


def _labels(robot: str, labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in {"robot": robot, **labels}.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Endpoint:
    """The page.

    Args:
        port: On the loopback; 0 takes a free one.

    Raises:
        ConfigError: The port is taken.
    """

    def __init__(self, port: int) -> None:
        self._page = b""
        try:
            self._server = HTTPServer((_LOOPBACK, port), self._handler())
        except OSError as exc:
            raise ConfigError(
                f"telemetry.prometheus_port {port} cannot be used", got=exc.strerror, fix="Name a free port."
            ) from exc
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="prometheus", daemon=True)
        self._thread.start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _READER_TIMEOUT_S

            def do_GET(self) -> None:
                if self.path != "/metrics":
                    self.send_error(404)
                    return
                page = endpoint._page
                self.send_response(200)
                self.send_header("Content-Type", _CONTENT_TYPE)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by http.server
                _LOG.debug(format, *args)

        return Handler

    def show(self, text: str) -> None:
        """Replace the page.

        Args:
            text: From `exposition`.
        """
        self._page = text.encode()

    def close(self) -> None:
        """End the thread and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_READER_TIMEOUT_S)
