"""The loop: hooks at their steps, means over an interval, a profiler trace."""

import jax.numpy as jnp
import numpy as np
import pytest

from maskdiff_jax.train import loop
from maskdiff_jax.train.state import TrainState


def counting_step(state, *batches):
    return state._replace(step=state.step + len(batches)), {"loss": jnp.float32(batches)}


def run(steps, hooks, start=0, meter=None, **options):
    state = TrainState(jnp.int32(start), {}, ())
    return loop.run(state, counting_step, iter(range(start, 100)), steps, meter or loop.Meter(), hooks, **options)


def test_hooks_run_at_their_multiples_and_after_the_last_step():
    calls = []
    hook = lambda name, every: loop.Hook(every, lambda done, state: calls.append((name, done)))  # noqa: E731
    state, done = run(7, [hook("a", 3), hook("never", 0), hook("b", 2)])
    assert calls == [("b", 2), ("a", 3), ("b", 4), ("a", 6), ("b", 6), ("a", 7), ("b", 7)]
    assert done == 7 == state.step


def test_a_resumed_loop_takes_the_rest_and_a_finished_one_nothing():
    seen = []
    hooks = [loop.Hook(1, lambda done, state: seen.append(done))]
    assert run(6, hooks, start=4)[1] == 6 and seen == [5, 6]
    assert run(6, hooks, start=6)[1] == 6 and seen == [5, 6]


def test_several_steps_of_one_call_end_where_a_hook_is_due():
    """Every hook sees the steps that it would see with one step per call; a request to stop is heard between calls."""
    calls, ends, meter = [], [], loop.Meter()
    hooks = [
        loop.Hook(6, lambda done, state: calls.append((done, meter.read()["loss"]))),
        loop.Hook(0, lambda done, state: calls.append(done), at=(9, 40)),
    ]
    state, done = run(17, hooks, meter=meter, stopped=lambda: ends.append(None), per_call=4)
    means = [np.mean(range(*cut)) for cut in ((0, 6), (6, 12), (12, 17))]
    assert calls == [(6, means[0]), 9, (12, means[1]), (17, means[2])] and done == 17 == state.step
    assert len(ends) == 3 + 3 + 3 + 2  # calls of 4, 1, 1; 1, 1, 1; 1, 1, 1; 4, 1


def test_means_leave_out_what_is_not_finite():
    meter = loop.Meter()
    for loss, skipped in ((1.0, 0), (np.nan, 1), (3.0, 0), (np.inf, 1)):
        meter.add({"loss": jnp.float32(loss), "skipped": jnp.int32(skipped)})
    assert meter.read() == {"loss": 2.0, "skipped": 0.5}
    assert meter.read() == {}
    meter.add({"loss": jnp.float32(5)})
    assert meter.read() == {"loss": 5.0}
    meter.add({"loss": jnp.float32(5)})
    meter.add({"loss": jnp.float32([2, jnp.nan, 8])})  # of three steps in one call
    assert meter.read() == {"loss": 5.0}


def test_profiler_traces_the_steps_that_were_asked_for(tmp_path):
    profiler = loop.Profiler("1:3", tmp_path / "profile")
    assert run(4, [profiler.hook])[1] == 4
    assert any(path.is_file() for path in (tmp_path / "profile").rglob("*"))
    early = loop.Profiler("1:50", tmp_path / "early")
    run(2, [early.hook])
    early.close()
    assert any(path.is_file() for path in (tmp_path / "early").rglob("*"))
    run(4, [loop.Profiler("", tmp_path / "none").hook])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["10", "20:10", "0:5", "a:b", "1:2:3"])
def test_profiled_steps_are_two_rising_numbers(text):
    assert loop.profiled_steps("10:20") == (10, 20)
    with pytest.raises(ValueError, match="two step numbers"):
        loop.profiled_steps(text)
