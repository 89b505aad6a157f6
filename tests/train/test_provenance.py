"""What a number was made with."""

import subprocess

from maskdiff_jax.train.provenance import provenance, revision


def test_provenance_names_the_configuration():
    one, same, other = provenance({"a": 1, "b": 2}), provenance({"b": 2, "a": 1}), provenance({"a": 1, "b": 3})
    assert one["config_sha256"] == same["config_sha256"] != other["config_sha256"]
    assert one["versions"]["jax"] and one["devices"] == 8


def test_revision_names_the_commit_and_says_when_files_differ(tmp_path):
    def git(*args):
        command = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert revision(tmp_path) is None
    git("init")
    (tmp_path / "file").write_text("a")
    git("add", ".")
    git("commit", "-m", "one")
    git("tag", "-a", "v1", "-m", "v1")
    assert revision(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("b")
    assert revision(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    (tmp_path / "inside").mkdir()
    assert revision(tmp_path / "inside") is None
