"""From bin photos to a trained run: dataset, split, model, loop, evaluation."""
