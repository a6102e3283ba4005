"""What cloud and robot agree on: the bundle, its verification, the preprocessing, the engines and the Counter."""

import os

# Since 1.29 ONNX Runtime reports to its maker from Linux too, as soon as it is imported, and leaves an identifier on
# disk. Its switch counts only before that import, and every package here imports this one first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
