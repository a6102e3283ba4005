"""What an agent costs that has nothing to do, as processor time. Each form prints one object with `ratio`.

python benchmarks/idle.py http        a camera that is asked ten times a second, no visit due; reference: a bare loop
                                      that asks, decodes and scales as often; below 1 is good
python benchmarks/idle.py folder      between two photos of a folder; reference: a loop that lists it ten times a second
The reference runs beside the agent for the same time. `percent_of_core` is the agent and its capture process, the aim
is 5 at most.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle.images import encode_jpeg
from demo.render import render_bin
from tests.edge_agent.running import ROOT, AgentProcess, config_text
from tests.edge_agent.waiting import wait_until
from tests.simulators.broker import Mosquitto

LOOKS_A_SECOND = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")
_BARE_LOOP = """
import os, sys, time, urllib.request
import cv2, numpy as np
cv2.setNumThreads(1)
source, looks = sys.argv[1], float(sys.argv[2])
print("ready", flush=True)
while True:
    due = time.monotonic() + 1 / looks
    if source.startswith("http"):
        with urllib.request.urlopen(source) as answer:
            image = cv2.imdecode(np.frombuffer(answer.read(), np.uint8), cv2.IMREAD_COLOR)
        cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA)
    else:
        sorted(entry.name for entry in os.scandir(source) if entry.is_file())
    time.sleep(max(0.0, due - time.monotonic()))
"""


def main() -> None:
    """Run one form and print its object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=("folder", "http"))
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--bundle", type=Path, default=ROOT / "demo" / "bundle")
    parser.add_argument("--size", default="640x480", help="of the camera's pictures")
    arguments = parser.parse_args()
    width, height = (int(side) for side in arguments.size.split("x"))
    photos = [encode_jpeg(render_bin(seed, size_wh=(width, height)).image_bgr) for seed in range(4)]
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), arguments, photos)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "opencv": cv2.__version__}
    print(json.dumps({"form": arguments.form, "size": arguments.size, **result, **machine}))


def measure(folder: Path, arguments: argparse.Namespace, photos: list[bytes]) -> dict[str, Any]:
    """Run agent and reference beside each other, after both have warmed up."""
    source = folder / "photos"
    source.mkdir()
    for number, photo in enumerate(photos):
        (source / f"{number}.jpg").write_bytes(photo)
    server = camera_server(photos)
    address = f"http://127.0.0.1:{server.server_address[1]}/x.jpg"
    if arguments.form == "http":
        camera = f"fps = {LOOKS_A_SECOND}\n[cameras.visit]\ninterval_s = 86400\nframes = 1"
    else:
        camera = "repeat = true\npause_s = 3600"
    asked, plain = (f"snapshot+{address}", address) if arguments.form == "http" else (str(source), str(source))
    with Mosquitto(folder) as broker:
        text = config_text(
            bundle=arguments.bundle, source=asked, state=folder / "state", port=broker.port, camera=camera
        )
        command = [sys.executable, "-c", _BARE_LOOP, plain, str(LOOKS_A_SECOND)]
        bare = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        agent = AgentProcess.start(folder, text)
        wait_until(lambda: agent.counts, what="the first count")
        time.sleep(5.0)
        children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text(encoding="ascii")
        parts = {"agent": [agent.process.pid], "capture": [int(pid) for pid in children.split()], "bare": [bare.pid]}
        before, began_s = {part: spent_s(pids) for part, pids in parts.items()}, time.monotonic()
        time.sleep(arguments.seconds)
        took_s = time.monotonic() - began_s
        percent = {part: 100 * (spent_s(pids) - before[part]) / took_s for part, pids in parts.items()}
        agent.terminate()
        bare.kill()
        bare.communicate()
    server.shutdown()
    ours = percent["agent"] + percent["capture"]
    return {
        "ratio": round(ours / percent["bare"], 2) if percent["bare"] else None,
        "percent_of_core": round(ours, 2),
        "percent": {part: round(value, 2) for part, value in percent.items()},
        "seconds": round(took_s, 1),
    }


def camera_server(photos: list[bytes]) -> ThreadingHTTPServer:
    """A network camera; its own time is not counted."""

    class Handler(BaseHTTPRequestHandler):
        asked = 0

        def do_GET(self) -> None:
            type(self).asked += 1
            photo = photos[self.asked % len(photos)]
            self.send_response(200)
            self.send_header("Content-Length", str(len(photo)))
            self.end_headers()
            self.wfile.write(photo)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def spent_s(pids: list[int]) -> float:
    """Processor time of processes so far, user and system, seconds."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


if __name__ == "__main__":
    main()
