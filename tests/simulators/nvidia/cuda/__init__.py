"""A stand-in for cuda-python; see tests.simulators.nvidia."""
