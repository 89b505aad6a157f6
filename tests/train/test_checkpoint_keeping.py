"""Which checkpoints are kept, which is the best, and how a user names one."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train.checkpoint import CheckpointError, Checkpoints
from maskdiff_jax.train.reading import abstract
from tests.train.saved import names, truncate

STATE = {"a": jnp.arange(3)}


@pytest.mark.parametrize(
    "keep_latest, keep_every, kept",
    [(1, None, [7]), (2, None, [6, 7]), (1, 3, [3, 6, 7]), (3, 2, [2, 4, 5, 6, 7])],
)
def test_what_is_kept(keep_latest, keep_every, kept, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_latest, keep_every)
    for step in range(1, 8):
        assert checkpoints.save(step, {"a": jnp.arange(step)}, {}, {})
        assert checkpoints.latest_step() == step
    assert not checkpoints.save(7, {"a": jnp.arange(7)}, {}, {})
    with pytest.raises(CheckpointError, match=r"cannot save step 1: .* holds the later step 7"):
        checkpoints.save(1, {"a": jnp.arange(1)}, {}, {})
    checkpoints.close()
    assert Checkpoints(tmp_path, read_only=True).steps() == kept


def ranking(history):
    """The steps of [(step, metric)] that have a finite metric, the best first."""
    found = sorted((metric, -step) for step, metric in history if metric is not None and math.isfinite(metric))
    return [-step for _, step in found]


@pytest.mark.parametrize("seed", range(3))
def test_random_runs_keep_what_the_definition_says(seed, tmp_path):
    """Saves at random steps, with metrics that are equal, missing or not finite, by trainers that come and go.

    What is left is told from all saves that there were, without deleting one after the other.
    """
    random = np.random.default_rng(seed)
    latest, best, every = int(random.integers(1, 4)), int(random.integers(1, 4)), [None, 3, 7][seed]
    explicit = random.integers(1, 30, 2).tolist()
    metrics = [None, math.nan, math.inf, -math.inf, *np.round(random.normal(size=6), 1).tolist()]
    rule = {"keep_latest": latest, "keep_every": every, "keep_steps": explicit, "keep_best": best}
    checkpoints, history = Checkpoints(tmp_path, **rule), []
    for step in np.cumsum(random.integers(1, 4, 12)).tolist():
        history.append((step, metrics[random.integers(len(metrics))]))
        checkpoints.save(step, STATE, {}, {}, metric=history[-1][1])
        if random.random() < 0.3:
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path, **rule)
        checkpoints.wait()
        steps, ranked = [s for s, _ in history], ranking(history)
        multiples = [s for s in steps if every and s % every == 0]
        assert {*checkpoints.steps()} == {*steps[-latest:], *multiples, *ranked[:best], *({*explicit} & {*steps})}
        assert checkpoints.best_step() == (ranked[0] if ranked else None)
    checkpoints.close()


def test_the_best_is_told_from_the_records_alone(tmp_path):
    """By a reader, after a restart, and not by a record that is broken; of two alike it is the later one."""
    checkpoints = Checkpoints(tmp_path, keep_latest=5)
    assert checkpoints.best_step() is None
    for step, metric in ((1, 0.3), (2, 0.1), (3, math.nan), (4, jnp.float32(0.25)), (5, 0.25)):
        checkpoints.save(step, STATE, {}, {"mine": 1}, metric=metric)
    assert checkpoints.best_step() == 2
    restored = checkpoints.restore(abstract(STATE))
    assert restored.step == 5 and restored.meta == {"mine": 1}
    checkpoints.close()
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.best_step() == 2
    record = tmp_path / "2" / "record" / "metadata"
    assert json.loads(record.read_text())["body"]["metric"] == 0.1
    record.write_text(record.read_text().replace("0.1", "0.2"))
    assert reader.best_step() == 5
    assert Checkpoints(tmp_path, read_only=True).best_step() == 5


def test_a_checkpoint_is_named_by_its_step_or_as_newest_or_best(tmp_path):
    checkpoints, wanted = Checkpoints(tmp_path, keep_latest=4), abstract(STATE)
    assert checkpoints.restore_named("newest", wanted) is None
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* has a metric to be the best by; there are: none"):
        checkpoints.restore_named("best", wanted)
    for step, metric in ((10, 0.2), (20, 0.1), (30, 0.4), (40, None)):
        checkpoints.save(step, {"a": jnp.arange(3) + step}, {}, {}, metric=metric)
    for name, step in {"newest": 40, "best": 20, "10": 10, "30": 30}.items():
        restored = checkpoints.restore_named(name, wanted)
        assert restored.step == step and restored.state["a"].tolist() == [step, step + 1, step + 2]
    for name in ("15", "100000"):
        with pytest.raises(CheckpointError, match=rf"^no checkpoint {name} in .*; there are: 10, 20, 30, 40$"):
            checkpoints.restore_named(name, wanted)
    for name in ("bets", "-10", "1.5", ""):
        with pytest.raises(CheckpointError, match=rf"^no checkpoint '{name}': name a step, or newest or best; there"):
            checkpoints.restore_named(name, wanted)
    truncate(tmp_path / "20")
    with pytest.raises(CheckpointError, match=r"checkpoint 20 in .* is damaged: "):
        checkpoints.restore_named("best", wanted)  # another one than was asked for would be an answer to nothing
    assert names(tmp_path) == ["10", "20", "30", "40"]
    checkpoints.close()
