"""What executes a model: one contract (base) and one file per runtime."""
