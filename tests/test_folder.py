"""The config for one's own images on a folder of 200 files of all kinds, of which three are broken; a tiny network."""

from tests.cli import command, here
from tests.data import pictures

TINY = (
    "--config=configs/folder_sparse.py",
    "--config.steps=2",
    "--config.batch=8",
    "--config.data.size=8",
    "--config.schedule.warmup=1",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.heads=2",
    "--config.model.dtype=float32",
    "--config.sample.steps=2",
    "--config.evaluate.num=0",
    "--config.evaluate.images=16",
    "--config.log.heldout_every=0",
    "--config.log.sample_every=0",
)


def test_a_folder_trains_and_its_broken_files_are_named(tmp_path):
    mixed, run = pictures.mixed(tmp_path / "mixed"), tmp_path / "run"
    process = command(*TINY, f"--config.data.path={mixed}", f"--workdir={run}")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert all(name in err for name in pictures.BROKEN)
    assert "8x8x3, 3 classes" in out and (run / "report.json").exists()


def test_too_many_broken_files_end_in_one_line(tmp_path, capsys):
    plain = pictures.two_classes(tmp_path / "plain")
    for i in range(3):
        (plain / f"ant/broken_{i}.png").touch()
    assert here(*TINY, f"--config.data.path={plain}", f"--workdir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: config.data: 3 of 43 images") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_is_asked_for(tmp_path, capsys):
    assert here(*TINY, f"--workdir={tmp_path / 'run'}") == 2
    assert capsys.readouterr().err == "error: config.data: path: name the folder of your images\n"
