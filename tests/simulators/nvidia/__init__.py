"""Stand-ins for TensorRT and cuda-python that compute: put this folder on sys.path and `import tensorrt` finds them.

A "built engine" is the ONNX file behind a header, and running it runs ONNX Runtime; device memory is host memory. Which
version they pretend to be stands in BINTALLY_FAKE_TENSORRT. `tests/bundle/test_engines_tensorrt_contract.py` holds
their surface against NVIDIA's real Python bindings, so that code which works here calls what exists there.
"""
