"""How many photos a minute does the service count, and how long does a caller wait: 1, 8, 64 and 128 callers at once.

Starts `bintally serve` on this machine and asks it from a process of its own, each caller with a connection that it
keeps, photo after photo. Callers and service share the processor, as a test on one machine has to. Before and after
that, a bare loop counts the same photos in one process: decode, preprocess, infer, decide, no HTTP. The service takes
64 requests at once, so 128 callers are an overload: what is refused must be refused with 503 and Retry-After.

    python benchmarks/serving.py --bundle FOLDER [--photos FOLDER] [--seconds 5] [--clients 1 8 64 128]

Without --bundle a network with random weights is exported (--network); latency does not depend on what it knows.
Without --photos, native-size photos from BINTALLY_SHARED (or ../shared beside the repository) are sent, or noise.
The last line is one JSON object; `ratio` is photos a minute of the most callers that were not too many, over the bare
loop. `over_770` and `over_1500` compare with what a published counting endpoint reached on a 2-vCPU instance, alone and
with autoscaling.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from bundle.counter import Counter
from bundle.engines.machine import describe_machine
from bundle.images import decode, encode_jpeg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ALONE_PER_MINUTE, AUTOSCALED_PER_MINUTE = 770, 1500
OK, OVERLOADED = 200, 503
REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, print a table, and one JSON object as the last line."""
    options = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.bundle or _random_bundle(options.network, Path(temporary) / "bundle")
        photos = _photos(options.photos)
        before = bare_per_minute(folder, photos, options.threads, options.seconds)
        with _served(folder, options.threads, options.max_inside) as (port, engine):
            rows = [ask(port, photos, clients, options.seconds) for clients in options.clients]
        bare = statistics.mean([before, bare_per_minute(folder, photos, options.threads, options.seconds)])
    print(f"bare loop   {bare:>8.0f} photos a minute")
    for row in rows:
        print(
            f"{row['clients']:>3} callers {row['per_minute']:>8.0f} photos a minute   p50 {row['p50_ms']:7.1f} ms   "
            f"p99 {row['p99_ms']:7.1f} ms   {row['refused']} refused, {row['failed']} failed"
        )
    full = max((row for row in rows if not row["refused"]), key=lambda row: row["clients"])
    result = {
        "benchmark": "serve",
        "ratio": round(full["per_minute"] / bare, 2),
        "bare_per_minute": round(bare),
        "over_770": round(full["per_minute"] / ALONE_PER_MINUTE, 1),
        "over_1500": round(full["per_minute"] / AUTOSCALED_PER_MINUTE, 1),
        "engine": engine,
        "photo_bytes": round(float(np.mean([len(photo) for photo in photos]))),
        "rows": rows,
        "machine": describe_machine(),
    }
    print(json.dumps(result))


def bare_per_minute(folder: Path, photos: Sequence[bytes], threads: int | None, seconds: float) -> float:
    """Count photo after photo in this process."""
    counter = Counter.open(folder, threads=threads)
    counted, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        counter.count([decode(photos[counted % len(photos)], name="photo")])
        counted += 1
    took = time.monotonic() - started
    counter.close()
    return counted / took * 60


def ask(port: int, photos: Sequence[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Let callers ask for a while, from a process of their own."""
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, *(np.frombuffer(photo, np.uint8) for photo in photos))
        file.flush()
        command = [sys.executable, __file__, "--caller", file.name, str(port), str(clients), str(seconds)]
        done = subprocess.run(command, capture_output=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def call(photos: Sequence[bytes], port: int, clients: int, seconds: float) -> dict[str, Any]:
    """What the callers' process does: each thread sends photo after photo."""
    answered: list[float] = []
    refused: list[float] = []
    failed: list[str] = []
    end = time.monotonic() + seconds

    def caller(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        turn = first
        while time.monotonic() < end:
            started = time.monotonic()
            try:
                connection.request("POST", "/count", photos[turn % len(photos)], {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as exc:
                failed.append(repr(exc))
                connection.close()
                continue
            waited = (time.monotonic() - started) * 1e3
            if response.status == OK:
                answered.append(waited)
            elif response.status == OVERLOADED and response.getheader("Retry-After"):
                refused.append(waited)
            else:
                failed.append(str(response.status))
            turn += clients

    started = time.monotonic()
    threads = [threading.Thread(target=caller, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - started
    p50, p99 = np.percentile(answered or [float("nan")], (50, 99))
    return {
        "clients": clients,
        "answered": len(answered),
        "per_minute": round(len(answered) / took * 60, 1),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "refused": len(refused),
        "failed": len(failed),
    }


@contextmanager
def _served(folder: Path, threads: int | None, max_inside: int) -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "bintally", "serve", str(folder), "--port", "0", "--max-inside", str(max_inside)]
    command += [] if threads is None else ["--threads", str(threads)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    try:
        if process.stderr is None:
            raise OSError("the service has no output")
        engine = process.stderr.readline().strip()
        port = int(process.stderr.readline().strip().rsplit(":", 1)[1])
        yield port, engine
    finally:
        process.terminate()
        process.wait(60)


def _random_bundle(network: str, folder: Path) -> Path:
    from random_bundle import make_bundle

    return make_bundle(network, folder).path


def _photos(folder: Path | None) -> list[bytes]:
    shared = Path(os.environ.get("BINTALLY_SHARED", REPOSITORY.parent / "shared")) / "abid" / "originals"
    chosen = folder or shared
    found = sorted(chosen.glob("*.jpg"))[:200] if chosen.is_dir() else []
    if found:
        return [file.read_bytes() for file in found]
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 85, 122, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    return [encode_jpeg(image) for image in noise]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64, 128])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--max-inside", type=int, default=64)
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--caller"]:
        with np.load(sys.argv[2]) as arrays:
            loaded = [arrays[name].tobytes() for name in arrays.files]
        print(json.dumps(call(loaded, int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))))
    else:
        main()
