"""Every preset end to end on one dataset, shortened where asked, and its row for docs/presets.md.

    python benchmarks/presets.py DATASET --out runs/presets [--epochs 1] [--weights hub]

Each preset is one `bintally train --preset NAME` in a process of its own; a run that is there is gone on with, so
the script may be stopped and started again. Where torchvision's hub cannot be reached, weights are none, and the row
says so: such a row shows that the preset runs, not what it reaches. The last line is one JSON object; `ratio` is the
exact share of bintally-best over the best of the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from train.presets import PRESETS, Preset

ROOT = Path(__file__).resolve().parent.parent
OURS = "bintally-best"


def main() -> None:
    """Run every preset, and print one JSON object as the last line."""
    options = _arguments()
    chosen = [preset for preset in PRESETS if not options.only or preset.name in options.only]
    rows = {preset.name: _row(preset, options) for preset in chosen}
    print("| preset | ours on this dataset | weights | epochs |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['text']} | {row['weights']} | {row['epochs']} |")
    others = [
        row["accuracy"]
        for name, row in rows.items()
        if not name.startswith("bintally-") and row["accuracy"] is not None
    ]
    ours = rows.get(OURS, {}).get("accuracy")
    ratio = ours / max(others) if ours is not None and others else None
    print(json.dumps({"ratio": ratio, "rows": rows}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help="shorten every preset to at most so many")
    parser.add_argument("--size", type=int, help="shrink the input, to see them all run in minutes")
    parser.add_argument("--batch-size", type=int, help="likewise")
    parser.add_argument("--weights", choices=["hub", "none"], default="hub")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="names of presets")
    return parser.parse_args()


def _row(preset: Preset, options: argparse.Namespace) -> dict[str, Any]:
    weights = options.weights
    done = _train(preset, options, weights)
    if done.returncode and weights == "hub" and "download" in done.stderr:
        weights = "none"
        done = _train(preset, options, weights)
    epochs = _epochs(preset, options)
    row: dict[str, Any] = {"weights": weights, "epochs": epochs, "accuracy": None, "text": "failed"}
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return row
    figures = json.loads(done.stdout.splitlines()[-1])
    low, high = figures["accuracy_ci"]
    text = f"{figures['accuracy']:.1%} ({low:.1%} to {high:.1%}), RMSE {figures['rmse_posterior_mean']:.2f}"
    return row | {"accuracy": figures["accuracy"], "n": figures["n"], "text": text}


def _epochs(preset: Preset, options: argparse.Namespace) -> int:
    own = int(preset.settings.get("epochs", 12))
    return min(own, options.epochs) if options.epochs else own


def _train(preset: Preset, options: argparse.Namespace, weights: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "bintally", "train", str(options.dataset), "--preset", preset.name]
    words += ["--out", str(options.out / f"{preset.name}-{weights}"), "--weights", weights, "--resume", "--json"]
    words += ["--epochs", str(_epochs(preset, options)), "--threads", str(options.threads)]
    if options.size:
        words += ["--size", str(options.size), "--set", "stages=[]"]
    if options.batch_size:
        words += ["--batch-size", str(options.batch_size)]
    print(" ".join(words[1:]), file=sys.stderr)
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
