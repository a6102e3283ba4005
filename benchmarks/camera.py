"""What a camera's profile promises, measured. Each part prints one object; its main figure is `ratio`, below 1 is good.

python benchmarks/camera.py rectify                   one remap against OpenCV's two steps, 640x480
python benchmarks/camera.py lens                      rendered ChArUco shots: focal error / 1 %
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bundle.camera import CameraProfile, Lens, Rectifier
from calibration.boards import BoardSpec, find_corners
from calibration.lens import fit_lens
from calibration.region import region_from_points

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def main() -> None:
    """Run one part and print its object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("rectify", "lens"):
        parts.add_parser(name).add_argument("--tries", type=int, default=200)
    arguments = parser.parse_args()
    result = PARTS[arguments.part](arguments)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "opencv": cv2.__version__}
    print(json.dumps({"part": arguments.part, **result, **machine}))


def say(words: str) -> None:
    """Tell a person what happens, on stderr."""
    print(words, file=sys.stderr, flush=True)


def rectify(arguments: argparse.Namespace) -> dict[str, Any]:
    """One cached remap against `cv2.undistort` and `cv2.warpPerspective`, one after the other."""
    from tests.calibration.bin_scenes import LENS, bin_picture

    cv2.setNumThreads(2)
    picture = bin_picture(0)
    # The largest region that a 640x480 camera can have: as many pixels out as in.
    corners = np.array([(12.0, 14.0), (628.0, 10.0), (631.0, 470.0), (9.0, 466.0)])
    region = region_from_points(corners, (640, 480), LENS)
    rectifier = Rectifier(CameraProfile(camera="c", created=NOW, frame_wh=(640, 480), lens=LENS, region=region))
    width, height = region.size_wh
    target = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float32)
    forward = cv2.getPerspectiveTransform(LENS.undistort(corners).astype(np.float32), target)
    matrix, distortion = LENS.matrix(), np.array(LENS.distortion)

    def two_steps() -> None:
        cv2.warpPerspective(cv2.undistort(picture, matrix, distortion), forward, (width, height))

    ours, theirs = (timed(what, 40 + arguments.tries) for what in (lambda: rectifier.apply(picture), two_steps))
    cv2.setNumThreads(1)
    alone = timed(lambda: rectifier.apply(picture), 40 + arguments.tries, time.thread_time)
    return {
        "ratio": round(ours["p50_ms"] / theirs["p50_ms"], 3),
        "ours": ours,
        "two_steps": theirs,
        "processor_time_on_one_core": alone,
        "size_wh": [width, height],
        "allowed_ms": 2.0,
    }


def timed(what: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Median and 99th percentile of a call, milliseconds, after a warm-up."""
    spans = []
    for number in range(times):
        started = clock()
        what()
        if number >= times // 5:
            spans.append((clock() - started) * 1e3)
    return {"p50_ms": round(statistics.median(spans), 3), "p99_ms": round(float(np.percentile(spans, 99)), 3)}


def lens(arguments: argparse.Namespace) -> dict[str, Any]:
    """Known intrinsics from rendered shots, several sets of them."""
    from tests.calibration.test_lens import board_poses
    from tests.simulators.optics import photograph

    del arguments
    spec = BoardSpec()
    plane = cv2.cvtColor(np.clip(spec.picture(40), 25, 225), cv2.COLOR_GRAY2BGR)
    size = (spec.squares[0] * spec.square_mm, spec.squares[1] * spec.square_mm)
    focal, rms = [], []
    for number, (fx, k1) in enumerate(((520.0, -0.28), (600.0, -0.1), (470.0, -0.3))):
        true = Lens(fx=fx, fy=fx * 1.003, cx=325.3, cy=236.1, distortion=(k1, 0.08, 0.0006, -0.0004, 0.0), rms_px=0,
                    shots=1, coverage=1)  # fmt: skip
        shots = {}
        for index, pose in enumerate(board_poses(spec, 18, seed=number + 1)):
            found = find_corners(np.asarray(photograph(np.asarray(plane, np.uint8), size, true, pose)), spec)
            if found is not None:
                shots[f"{index}"] = found
        fitted = fit_lens(shots, (640, 480)).lens
        focal += [abs(fitted.fx / true.fx - 1), abs(fitted.fy / true.fy - 1)]
        rms.append(fitted.rms_px)
        say(f"fx {true.fx:.0f}: off by {focal[-2]:.3%}, reprojection {rms[-1]:.3f} px, {len(shots)} shots")
    return {
        "ratio": round(max(focal) / 0.01, 3),
        "worst_focal_error": round(max(focal), 5),
        "worst_rms_px": round(max(rms), 3),
        "allowed": {"focal_error": 0.01, "rms_px": 0.5},
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "rectify": rectify,
    "lens": lens,
}

if __name__ == "__main__":
    main()
