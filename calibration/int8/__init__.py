"""From FP32 to INT8: what frames do inside a network, which way weights are rounded, and the Q/DQ graphs of it."""
