"""Our networks and training steps beside plain PyTorch ones: the same function of the same weights, timed in turn."""
