"""The stream of batches: every sample once per epoch, and batch s a pure function of s."""

import json

import numpy as np
import pytest

from maskdiff_jax.data import Batches, DataError, crop, flip
from maskdiff_jax.data.pipeline import shuffled
from tests.data.conftest import numbered


def test_every_epoch_visits_each_sample_once():
    """Batches of 4 over 10 samples: cut across epochs, with running numbers that say which epoch it is."""
    batches = [Batches(numbered(10), 4, seed=0).at(step) for step in range(10)]
    index = np.concatenate([b["index"] for b in batches]).reshape(4, 10)
    number = np.concatenate([b["number"] for b in batches]).reshape(4, 10)
    np.testing.assert_array_equal(np.sort(index, axis=1), np.tile(np.arange(10), (4, 1)))
    np.testing.assert_array_equal(number, index + 10 * np.arange(4)[:, None])
    assert len(np.unique(index, axis=0)) == 4  # each epoch in an order of its own


def test_records_are_those_of_the_index():
    source = numbered(10)
    batch = Batches(source, 6, seed=4).at(7)
    np.testing.assert_array_equal(batch["image"], source.image[batch["index"]])
    np.testing.assert_array_equal(batch["label"], batch["index"])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_fewer_samples_than_a_batch(n):
    batch = Batches(numbered(n), 6, seed=0).at(0)
    np.testing.assert_array_equal(np.bincount(batch["index"]), np.full(n, 6 // n))


def test_no_two_seeds_share_an_epoch():
    """Neither consecutive seeds nor a seed beyond 32 bits repeat an order."""
    orders = [
        tuple(shuffled(np.arange(50) + 50 * epoch, 50, seed))
        for seed in (0, 1, 2, 2**32, 2**64 - 1)
        for epoch in range(5)
    ]
    assert len(set(orders)) == 25


def test_shuffle_is_uniform():
    """Each sample comes first equally often (4,000 epochs of 8 samples: within five standard deviations)."""
    first = shuffled(np.arange(4000) * 8, 8, 0)
    assert np.abs(np.bincount(first, minlength=8) - 500).max() < 5 * np.sqrt(4000 / 8 * 7 / 8)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_state_is_that_of_the_consumed_batch(prefetch):
    """What is loaded ahead does not count; a state survives JSON, and also rewinds the iterator that gave it."""
    batches = Batches(numbered(10), 4, 0, flip(), prefetch=prefetch)
    states, numbers = [], []
    for _ in range(4):
        states.append(json.loads(json.dumps(batches.get_state())))
        numbers.append(next(batches)["number"])
    assert [state["step"] for state in states] == [0, 1, 2, 3]
    for state, number in reversed(list(zip(states, numbers, strict=True))):
        batches.set_state(state)
        np.testing.assert_array_equal(next(batches)["number"], number)
    started = Batches(numbered(10), 4, 0, flip(), prefetch=prefetch, start=3)
    np.testing.assert_array_equal(next(started)["number"], numbers[3])
    batches.close(), started.close()


@pytest.mark.parametrize(
    "other, message",
    [
        (Batches(numbered(11), 4, 0, flip()), "data was"),
        (Batches(numbered(10, labels=False), 4, 0, flip()), "data was"),
        (Batches(numbered(10), 8, 0, flip()), "batch was 4, is 8"),
        (Batches(numbered(10), 4, 1, flip()), "seed was 0, is 1"),
        (Batches(numbered(10), 4, 0, crop(1)), r"augment was 'flip\(rate=0.5\)', is 'crop\(pad=1, mode=constant\)'"),
    ],
)
def test_state_of_another_stream_is_refused(other, message):
    state = Batches(numbered(10), 4, 0, flip(), start=5).get_state()
    with pytest.raises(ValueError, match=message):
        other.set_state(state)
    assert other.get_state()["step"] == 0


def test_state_may_go_to_another_number_of_hosts():
    state = Batches(numbered(10), 4, 0, start=5).get_state()
    host = Batches(numbered(10), 4, 0, process_index=1, process_count=2)
    host.set_state(state)
    np.testing.assert_array_equal(next(host)["number"], Batches(numbered(10), 4, 0).at(5)["number"][2:])
    host.close()


def test_errors_of_a_source_reach_the_caller():
    class Broken:
        fingerprint = "broken"

        def __len__(self):
            return 5

        def fetch(self, indices):
            raise DataError("unreadable")

    batches = Batches(Broken(), 2, 0)
    with pytest.raises(DataError, match="unreadable"):
        next(batches)
    batches.close()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch": 0}, "batch=0"),
        ({"batch": 6, "process_count": 4}, "multiple of the number of processes, 4"),
        ({"process_index": 1}, "process_index=1"),
        ({"seed": -1}, "seed=-1"),
        ({"source": numbered(0)}, "got 0"),
        ({"prefetch": -1}, "prefetch=-1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(**{"source": numbered(5), "batch": 4, "seed": 0, **options})
