"""From photos somewhere to a dataset folder that can be audited, diffed and reproduced."""
