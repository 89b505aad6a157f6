"""The stand-in for TensorFlow's files, as a builder's module sees it."""

import sys

import pytest
from tensorflow_datasets.image_classification import cifar

from maskdiff_jax.data.gfile import without_tensorflow


def test_gfile(tmp_path):
    with without_tensorflow():
        gfile = cifar.tf.io.gfile
        gfile.makedirs(tmp_path / "a" / "b")
        with gfile.GFile(str(tmp_path / "a" / "é.txt"), "w") as file:
            file.write("é\n")
        gfile.copy(str(tmp_path / "a" / "é.txt"), str(tmp_path / "a" / "b" / "1.txt"))
        with gfile.GFile(str(tmp_path / "a" / "b" / "1.txt")) as text, gfile.GFile(text.name, "rb") as binary:
            assert list(text) == ["é\n"] and binary.read() == "é\n".encode()
        assert gfile.exists(str(tmp_path / "a")) and not gfile.exists(str(tmp_path / "c"))
        assert gfile.isdir(str(tmp_path / "a")) and not gfile.isdir(str(tmp_path / "a" / "é.txt"))
        assert sorted(gfile.listdir(str(tmp_path / "a"))) == ["b", "é.txt"]
        assert gfile.glob(str(tmp_path / "*" / "*" / "?.txt")) == [str(tmp_path / "a" / "b" / "1.txt")]
        assert gfile.glob(str(tmp_path / "a")) == [str(tmp_path / "a")] and gfile.glob(str(tmp_path / "c")) == []
        tree = [(str(tmp_path / "a"), ["b"], ["é.txt"]), (str(tmp_path / "a" / "b"), [], ["1.txt"])]
        assert list(gfile.walk(str(tmp_path / "a"))) == tree
        with pytest.raises(ModuleNotFoundError, match=r"tf\.io\.gfile\.rename needs TensorFlow"):
            gfile.rename("a", "b")


def test_tensorflow_is_used_where_it_is_installed(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    before = cifar.tf
    with without_tensorflow():
        assert cifar.tf is before
    assert "tensorflow" not in sys.modules
