"""A trained run in, a verified bundle out: ONNX, INT8, golden frames, parity, pack."""
