"""The CIFAR-10 config on real images, with a tiny network. Skipped only where the prepared data set is absent."""

from maskdiff_jax.train.writers import read_jsonl
from tests.cli import command


def test_two_hundred_steps_on_real_cifar10_cut_the_dense_loss_to_two_fifths(data_dir, tmp_path):
    tiny = {"model.preset": "S", "model.patch": 4, "model.width": 64, "model.depth": 2, "model.heads": 4}
    short = {"steps": 200, "batch": 32, "schedule.learning_rate": 2e-3, "schedule.warmup": 20, "evaluate.num": 0}
    quiet = {"log.sample_every": 0, "log.checkpoint_every": 0, "log.heldout_every": 200, "sample.steps": 2}
    options = {"data.data_dir": data_dir, "resident": False, "model.dtype": "float32", **tiny, **short, **quiet}
    arguments = [f"--config.{key}={value}" for key, value in options.items()]
    process = command("--config=configs/cifar_sparse.py", f"--workdir={tmp_path / 'run'}", *arguments)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    rows = {row["step"]: row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")}
    assert rows[200]["heldout/loss"] <= 0.4 * rows[0]["heldout/loss"]
    assert rows[200]["heldout_ema/loss"] < rows[0]["heldout_ema/loss"]
