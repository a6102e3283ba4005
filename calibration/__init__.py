"""Better numbers for a bundle: INT8 ranges and a confidence that keeps its promise. Knows no torch."""
