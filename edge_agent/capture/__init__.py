"""Cameras: pictures come out of a process that may hang, crash or vanish."""
