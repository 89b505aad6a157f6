"""Philox4x32-10, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3").

NumPy's own Philox must be rebuilt for each counter; this one takes a whole array of them at once.
"""

import zlib

import numpy as np

_MULTIPLIER = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Four random words [4, b] for each counter [4, b] under a key [2]; words of 32 bits, held in uint64."""
    key = key[:, None]
    for _ in range(10):
        product = _MULTIPLIER * counter[0::2]
        high, low = product >> _HALF, product & _LOW
        mixed = high[::-1] ^ counter[1::2] ^ key
        counter = np.stack([mixed[0], low[1], mixed[1], low[0]])
        key = (key + _WEYL) & _LOW
    return counter


def uniform(seed: int, numbers: np.ndarray, name: str) -> np.ndarray:
    """Four uniforms in [0, 1) for every running number, [4, b]: a pure function of (seed, number, name of the use)."""
    numbers = numbers.astype(np.uint64)
    tag = np.full_like(numbers, zlib.crc32(name.encode()))
    counter = np.stack([numbers & _LOW, numbers >> _HALF, tag, np.zeros_like(numbers)])
    return philox(counter, np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint64)) * 2.0**-32
