"""A stand-in for cuda.bindings; see tests.simulators.nvidia."""
