"""Embeddings of texts from one file: what is read, and what is refused."""

import pickle

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from maskdiff_jax.weights.embeddings import read_embeddings

RNG = np.random.default_rng(0)
TEXT = RNG.standard_normal((3, 4, 5)).astype(np.float32)
MASK = np.arange(4)[None] < np.array([[4], [2], [0]])
POOLED = RNG.standard_normal((3, 6)).astype(np.float32)


def write(path, **arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_are_read(tmp_path, suffix):
    found = read_embeddings(write(tmp_path / f"e{suffix}", text=TEXT, mask=MASK, pooled=POOLED))
    for array, expected in zip(found, (TEXT, MASK, POOLED), strict=True):
        np.testing.assert_array_equal(array, expected, strict=True)
    bare = read_embeddings(write(tmp_path / f"e{suffix}", text=TEXT))
    assert bare.pooled is None
    np.testing.assert_array_equal(bare.mask, np.ones((3, 4), bool), strict=True)


def test_other_floats_become_float32(tmp_path):
    half = TEXT.astype(ml_dtypes.bfloat16)
    found = read_embeddings(write(tmp_path / "e.safetensors", text=half, pooled=POOLED.astype(np.float64)))
    np.testing.assert_array_equal(found.text, half.astype(np.float32), strict=True)
    np.testing.assert_array_equal(found.pooled, POOLED, strict=True)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pooled": POOLED}, "there is no text [n, length, width]"),
        ({"text": TEXT, "texts": TEXT}, "texts is none of text, mask, pooled"),
        ({"text": TEXT[0]}, "text has shape [4, 5], not 3 axes with something in each"),
        ({"text": TEXT[:0]}, "text has shape [0, 4, 5], not 3 axes with something in each"),
        ({"text": TEXT.astype(np.int32)}, "text holds int32, not floating-point numbers"),
        ({"text": np.where(TEXT > 1, np.float32(np.nan), TEXT)}, "text is not finite"),
        ({"text": TEXT, "mask": MASK.astype(np.int32)}, "mask holds int32, not bool"),
        ({"text": TEXT, "mask": MASK[:2]}, "mask has shape [2, 4], not [3, 4] as text asks for"),
        ({"text": TEXT, "pooled": TEXT}, "pooled has shape [3, 4, 5], not 2 axes with something in each"),
        ({"text": TEXT, "pooled": POOLED[:2]}, "pooled is of 2 texts, text of 3"),
        ({"text": TEXT, "pooled": np.full_like(POOLED, np.inf)}, "pooled is not finite"),
    ],
)
def test_other_arrays_are_refused(tmp_path, suffix, arrays, message):
    path = write(tmp_path / f"e{suffix}", **arrays)
    with pytest.raises(ValueError) as refusal:
        read_embeddings(path)
    assert str(refusal.value) == f"embeddings={str(path)!r}: {message}"


class Harm:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).mkdir, (self.path,)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pkl", ".pt", ".npy"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    path, harm = tmp_path / f"e{suffix}", tmp_path / "harm"
    path.write_bytes(pickle.dumps({"text": TEXT, "mask": Harm(harm)}))
    message = "cannot be read as" if suffix in (".npz", ".safetensors") else r"choose a file of \.npz, \.safetensors$"
    with pytest.raises(ValueError, match=message):
        read_embeddings(path)
    np.savez(tmp_path / "objects.npz", text=np.array([Harm(harm)], object))
    with pytest.raises(ValueError, match=r"cannot be read as \.npz: Object arrays cannot be loaded"):
        read_embeddings(tmp_path / "objects.npz")
    assert not harm.exists()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_broken_and_absent_files(tmp_path, suffix):
    path = write(tmp_path / f"e{suffix}", text=TEXT)
    whole = path.read_bytes()
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=rf"cannot be read as \{suffix}"):
            read_embeddings(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_embeddings(tmp_path / f"absent{suffix}")
