"""Requests to stop, and runs that go bad."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import multihost_utils

from maskdiff_jax.train.stop import Diverged, Watch, interruptible


def test_the_first_ctrl_c_stops_after_the_step_and_the_second_is_pythons_own():
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped() and stopped.status == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_stops_however_often_and_is_no_failure():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible() as stopped:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped() and stopped.status == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_agree_on_the_number_of_a_question(monkeypatch):
    """The runtime takes the highest number that any of them has come to, and stops all at the next: none may be left
    out, though a call has several steps."""
    numbers = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda n: numbers.append(n) or n == 3)
    with interruptible() as stopped:
        assert [stopped(), stopped(), stopped()] == [False, False, True] and numbers == [1, 2, 3]


@pytest.mark.parametrize("lag", [0, 3])
def test_so_many_bad_steps_in_a_row_end_a_run(lag):
    """Steps 3 to 5 are bad, counted from 0: after 6 steps the third in a row is known, ``lag`` steps later read."""
    counts, watch = [0, 1, 0, 1, 2, 3, 4, 0, 0, 0], Watch(3, lag)
    with pytest.raises(Diverged) as caught:
        for done, count in enumerate(counts, 1):
            watch.add(done, jnp.int32(count))
    assert (caught.value.first, caught.value.count, done) == (3, 3, 6 + lag)


def test_counts_of_several_steps_are_read_in_order():
    """Steps 3 to 5 of calls of four are bad: known after the second call, read when the third was made."""
    watch = Watch(3, lag=4)
    watch.add(4, jnp.int32([0, 1, 0, 1]))
    watch.add(8, jnp.int32([2, 3, 4, 0]))
    with pytest.raises(Diverged) as caught:
        watch.add(12, jnp.int32([0, 0, 0, 0]))
    assert (caught.value.first, caught.value.count) == (3, 3)


def test_what_was_not_read_is_read_at_the_end():
    watch = Watch(2, lag=8)
    for done, count in enumerate([0, 1, 2], 1):
        watch.add(done, jnp.int32(count))
    with pytest.raises(Diverged, match="2 steps in a row had a bad gradient, from step 1 on"):
        watch.close()
    Watch(2).close()
