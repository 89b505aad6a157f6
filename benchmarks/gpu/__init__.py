"""How near our steps come to what one GPU can do, and to a compiled PyTorch peer, case by case."""
