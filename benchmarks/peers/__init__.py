"""Our networks and training steps beside plain PyTorch ones: the same function of the same weights, timed in turn."""

from benchmarks.peers import bare

bare.install()  # before any module of the library
