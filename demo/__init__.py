"""Rendered bins, and the one-command tour that counts them.

The renderer needs numpy and OpenCV alone. The tour needs the `demo` extra: an embedded broker, an embedded object store
and a live table. Nothing here imports the agent or torch: the tour starts the agent as a robot does, as a process.
"""
