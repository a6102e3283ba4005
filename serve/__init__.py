"""A bundle over HTTP, for those who have no robot: the same Counter, the same answers."""
