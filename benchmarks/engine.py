"""How fast are the engines, and what does our wrapper cost: ResNet18, MobileNetV2 and ResNet50, 224 px, batch 1.

The networks have random weights, quantised as `bintally export` does: latency does not depend on what a network knows.
Every engine lives in a process of its own and they take turns in blocks, because thread pools that spin after a call
distort whoever is measured next. A figure is the best block's median; the reference is ONNX Runtime with its own
defaults on the FP32 file.

    python benchmarks/engine.py [--threads 2] [--rounds 5] [--seconds 1.0] [--network resnet18 ...]

The last line is one JSON object; `ratio` is ONNX Runtime FP32 over the best INT8 engine for ResNet18 (or the first
network), `overhead` what `Engine.infer` adds to the bare runtime call, `auto` what `open_engine` chose.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from random_bundle import CLASSES, ENTRIES, SPEC, make_bundle

from bundle.engines.choose import open_engine
from bundle.engines.machine import describe_machine
from bundle.engines.ort import OrtEngine
from bundle.engines.ov import OvEngine
from bundle.engines.speed import timed_block

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

    from bundle.engines.base import Engine
    from bundle.manifest import ModelEntry
    from bundle.verify import Bundle

NETWORKS = ("resnet18", "mobilenet_v2", "resnet50")
REFERENCE = "onnxruntime fp32, bare"
INT8 = ("openvino int8", "onnxruntime int8")
PAIRS = (("openvino int8", "openvino int8, bare"), ("onnxruntime int8", "onnxruntime int8, bare"))


@dataclass(frozen=True, slots=True)
class Way:
    """One way of running one file.

    Attributes:
        name: In the table.
        role: Which file.
        open: Name of a function below: (model, entry, threads) -> a call.
    """

    name: str
    role: str
    open: str


WAYS = (
    Way(REFERENCE, "reference", "bare_onnxruntime"),
    Way("onnxruntime fp32", "reference", "our_onnxruntime"),
    Way("onnxruntime int8, bare", "cpu", "bare_onnxruntime"),
    Way("onnxruntime int8", "cpu", "our_onnxruntime"),
    Way("onnxruntime int8, trt file", "tensorrt", "our_onnxruntime"),
    Way("openvino default, bare", "reference", "bare_openvino_default"),
    Way("openvino fp32", "reference", "our_openvino"),
    Way("openvino int8, bare", "cpu", "bare_openvino"),
    Way("openvino int8", "cpu", "our_openvino"),
    Way("openvino int8, trt file", "tensorrt", "our_openvino"),
)


def main() -> None:
    """Measure, print a table, and one JSON object as the last line."""
    options = _arguments()
    results = {}
    for network in options.network or NETWORKS:
        with tempfile.TemporaryDirectory() as temporary:
            bundle = make_bundle(network, Path(temporary) / "bundle")
            rows = measure(bundle, options.threads, options.rounds, options.seconds)
            overhead = {ours: measure_overhead(bundle, ours, options.threads) for ours, _ in PAIRS}
            with open_engine(bundle, threads=options.threads) as chosen:
                auto = chosen.name
        results[network] = _result(rows, overhead, auto)
        _print(network, results[network])
    first = results[(options.network or NETWORKS)[0]]
    print(
        json.dumps(
            {
                "benchmark": "engine",
                "ratio": first["ratio"],
                "threads": options.threads,
                "networks": results,
                "machine": describe_machine(),
            }
        )
    )


def measure(bundle: Bundle, threads: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Median latency of every block of every way, milliseconds; blocks in turns."""
    context = multiprocessing.get_context("spawn")
    children = []
    for way in WAYS:
        ours, theirs = context.Pipe()
        process = context.Process(target=_child, args=(theirs, bundle.path, way, threads, seconds), daemon=True)
        process.start()
        ours.recv()  # opened and warm, before the next one starts
        children.append((way.name, ours, process))
    medians: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for _ in range(rounds):
        for name, connection, _ in children:
            connection.send("go")
            medians[name].append(connection.recv())
    for _, connection, process in children:
        connection.send("stop")
        process.join()
    return medians


def _child(connection: Connection, folder: Path, way: Way, threads: int, seconds: float) -> None:
    entry = ENTRIES[way.role]
    call = globals()[way.open]((folder / entry.file).read_bytes(), entry, threads)
    timed_block(call, 0.2)
    connection.send("ready")
    while connection.recv() == "go":
        connection.send(float(np.median(timed_block(call, seconds))))


def _frame() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)


def our_onnxruntime(model: bytes, entry: ModelEntry, threads: int) -> Callable[[], object]:
    """Our engine on ONNX Runtime."""
    engine, frame = OrtEngine(model, entry, SPEC, classes=len(CLASSES), threads=threads), _frame()
    return lambda: engine.infer(frame)


def our_openvino(model: bytes, entry: ModelEntry, threads: int) -> Callable[[], object]:
    """Our engine on OpenVINO."""
    engine, frame = OvEngine(model, entry, SPEC, classes=len(CLASSES), threads=threads), _frame()
    return lambda: engine.infer(frame)


def bare_onnxruntime(model: bytes, entry: ModelEntry, threads: int) -> Callable[[], object]:
    """ONNX Runtime with its defaults, its threads set."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {entry.input: _frame()}
    return lambda: session.run(None, feed)


def bare_openvino(model: bytes, entry: ModelEntry, threads: int) -> Callable[[], object]:
    """OpenVINO with the options that our engine sets, called directly."""
    engine = OvEngine(model, entry, SPEC, classes=len(CLASSES), threads=threads)
    return _bare_call(engine, _frame())


def bare_openvino_default(model: bytes, entry: ModelEntry, threads: int) -> Callable[[], object]:
    """OpenVINO as it comes, which may mean bfloat16."""
    import openvino

    del entry
    core = openvino.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", options).create_infer_request()
    frame = _frame()
    return lambda: request.infer([frame])


def measure_overhead(bundle: Bundle, name: str, threads: int, calls: int = 600) -> float:
    """Share that `Engine.infer` adds to the same session's bare call.

    Both run on the same threads, so they may alternate call by call; the lower quartiles are compared, because other
    work on the machine only ever adds time.
    """
    kind = OvEngine if name.startswith("openvino") else OrtEngine
    entry, frame = ENTRIES["cpu"], _frame()
    with kind(bundle.read(entry.file), entry, SPEC, classes=len(CLASSES), threads=threads) as engine:
        ways: tuple[Callable[[], object], ...] = (lambda: engine.infer(frame), _bare_call(engine, frame))
        latencies: list[list[float]] = [[], []]
        for turn in range(2 * calls):
            started = time.perf_counter()
            ways[turn % 2]()
            latencies[turn % 2].append(time.perf_counter() - started)
    ours, bare = (float(np.percentile(values[calls // 10 :], 25)) for values in latencies)
    return ours / bare - 1


def _bare_call(engine: Engine, frame: NDArray[np.float32]) -> Callable[[], object]:
    if isinstance(engine, OvEngine):
        request = engine._request  # noqa: SLF001 - the bare call is what is compared
        return lambda: request.infer([frame], share_inputs=True, share_outputs=True)
    assert isinstance(engine, OrtEngine)  # noqa: S101 - one of two
    session = engine._session  # noqa: SLF001
    feed, outputs = {ENTRIES["cpu"].input: frame}, [ENTRIES["cpu"].output]
    return lambda: session.run(outputs, feed)


def _result(rows: dict[str, list[float]], overhead: dict[str, float], auto: str) -> dict[str, Any]:
    best = {name: min(values) for name, values in rows.items()}
    fastest = min(INT8, key=best.__getitem__)
    # Block by block within a round, because the machine may be busier in one round than in the next.
    ratios = [reference / ours for reference, ours in zip(rows[REFERENCE], rows[fastest], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 2),
        "ratio_of_best_blocks": round(best[REFERENCE] / best[fastest], 2),
        "fastest": fastest,
        "auto": auto,
        "auto_over_fastest": round(best[auto.replace("-", " ")] / best[fastest], 3),
        "overhead": {name: round(value, 4) for name, value in overhead.items()},
        "best_block_ms": {name: round(value, 3) for name, value in best.items()},
        "median_block_ms": {name: round(statistics.median(values), 3) for name, values in rows.items()},
    }


def _print(network: str, result: dict[str, Any]) -> None:
    best = result["best_block_ms"]
    print(f"{network}: x{result['ratio']} with {result['fastest']}, auto took {result['auto']}")
    for name, value in best.items():
        print(f"  {name:<28}{value:8.2f} ms  x{best[REFERENCE] / value:.2f}")
    for name, value in result["overhead"].items():
        print(f"  {name:<28}costs {value:.1%} over the bare call")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--network", action="append", help=f"repeatable; default: {', '.join(NETWORKS)}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
