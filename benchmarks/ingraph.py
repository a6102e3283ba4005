"""Should the network take the resized picture as it is (uint8, NHWC, BGR) and normalise it inside the graph?

The same INT8 file twice: as shipped, after `bundle.preprocess.normalize` on the host; and with cast, transposition,
channel order, scale and offset put in front of it. Timed from the resized picture to the logits, block by block in
turns; a figure is the best block's median. Resizing stays outside in both: no runtime averages areas as OpenCV does.

    python benchmarks/ingraph.py [--bundle demo/bundle] [--threads 2] [--rounds 5] [--seconds 0.4]

The last line is one JSON object; `ratio` is the host's time over the graph's for the fastest runtime: above 1 the graph
wins.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle.engines.machine import describe_machine
from bundle.engines.speed import timed_block
from bundle.golden import read_golden
from bundle.preprocess import normalize, resize
from bundle.verify import load_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bundle.manifest import ModelEntry, Preprocessing

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    """Measure, print a table, and one JSON object as the last line."""
    options = _arguments()
    bundle = load_bundle(options.bundle)
    entry, spec = bundle.manifest.model("cpu"), bundle.manifest.preprocessing
    assert entry is not None  # noqa: S101 - every bundle that is worth a benchmark has it
    shipped = bundle.read(entry.file)
    picture = resize(read_golden(bundle, "cpu").frames[0], spec)
    rows = {
        name: measure(open_(options.threads), shipped, entry, spec, picture, options)
        for name, open_ in {"onnxruntime": open_onnxruntime, "openvino": open_openvino}.items()
    }
    for name, row in rows.items():
        print(
            f"{name:<12} on the host {row['host_ms']:.3f} ms (of it {row['normalize_ms']:.3f} ms), in the graph "
            f"{row['graph_ms']:.3f} ms, logits differ by {row['max_abs_logit']:.2g}"
        )
    fastest = min(rows.values(), key=lambda row: row["host_ms"])
    ratio = round(fastest["host_ms"] / fastest["graph_ms"], 3)
    print(json.dumps({"benchmark": "ingraph", "ratio": ratio, "rows": rows, "machine": describe_machine()}))


def measure(
    open_: Callable[[bytes], Callable[[NDArray[Any]], NDArray[np.float32]]],
    shipped: bytes,
    entry: ModelEntry,
    spec: Preprocessing,
    picture: NDArray[np.uint8],
    options: argparse.Namespace,
) -> dict[str, float]:
    """Time one runtime both ways."""
    plain, whole = open_(shipped), open_(with_normalisation(shipped, entry, spec))
    ways: dict[str, Callable[[], object]] = {
        "host_ms": lambda: plain(normalize(picture, spec)[np.newaxis]),
        "graph_ms": lambda: whole(picture[np.newaxis]),
        "normalize_ms": lambda: normalize(picture, spec),
    }
    blocks: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            blocks[name].append(float(np.median(timed_block(way, options.seconds))))
    difference = plain(normalize(picture, spec)[np.newaxis]) - whole(picture[np.newaxis])
    return {name: round(min(medians), 4) for name, medians in blocks.items()} | {
        "max_abs_logit": float(np.abs(difference).max())
    }


def with_normalisation(data: bytes, entry: ModelEntry, spec: Preprocessing) -> bytes:
    """Let a model take uint8 (N, h, w, 3) BGR pictures."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_model_from_string(data)
    graph, (width, height) = model.graph, spec.size_wh
    std = np.array(spec.std, np.float32)
    constants: dict[str, NDArray[Any]] = {
        "in_scale": (1 / (255 * std)).reshape(1, 3, 1, 1).astype(np.float32),
        "in_offset": (-np.array(spec.mean, np.float32) / std).reshape(1, 3, 1, 1).astype(np.float32),
        "in_order": np.array([2, 1, 0] if spec.color == "RGB" else [0, 1, 2], np.int64),
    }
    first = [
        helper.make_node("Cast", ["picture"], ["in_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["in_float"], ["in_planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Gather", ["in_planes", "in_order"], ["in_colours"], axis=1),
        helper.make_node("Mul", ["in_colours", "in_scale"], ["in_scaled"]),
        helper.make_node("Add", ["in_scaled", "in_offset"], [entry.input]),
    ]
    nodes = [*first, *graph.node]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.input.append(helper.make_tensor_value_info("picture", TensorProto.UINT8, ["batch", height, width, 3]))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def open_onnxruntime(threads: int) -> Callable[[bytes], Callable[[NDArray[Any]], NDArray[np.float32]]]:
    """ONNX Runtime with the options of our engine."""
    import onnxruntime as ort

    def opened(model: bytes) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda tensor: np.asarray(session.run(None, {name: tensor})[0])

    return opened


def open_openvino(threads: int) -> Callable[[bytes], Callable[[NDArray[Any]], NDArray[np.float32]]]:
    """OpenVINO with the options of our engine."""
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": threads}
    options |= {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}

    def opened(model: bytes) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        core = openvino.Core()
        request = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", options).create_infer_request()
        return lambda tensor: np.array(request.infer([tensor], share_inputs=True, share_outputs=True)[0])

    return opened


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=REPOSITORY / "demo" / "bundle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4)
    return parser.parse_args()


if __name__ == "__main__":
    main()
