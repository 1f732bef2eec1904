"""Training: the loop, the step, checkpoints, what is measured."""
