"""Training: state, optimizer, step, loop, checkpoints, writers. It knows nothing of configs."""
