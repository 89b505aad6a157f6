"""Orbax's chatter is kept off the terminal for as long as anybody needs that, and no longer."""

import logging
import sys
from contextlib import ExitStack

import pytest

from maskdiff_jax.train.orbax_noise import one_error_only

ABANDONED = RuntimeError("Event loop is closed")


@pytest.fixture
def heard(monkeypatch):
    """What reaches the hooks of the program: a list of errors."""
    errors = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: errors.append(error))
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: errors.append(unraisable.exc_value))
    return errors


def state():
    return sys.excepthook, sys.unraisablehook, list(logging.getLogger("asyncio").filters)


def say(error):
    sys.excepthook(type(error), error, None)


@pytest.mark.parametrize("first, second", [(0, 1), (1, 0)])
def test_two_may_overlap_and_end_in_any_order(heard, first, second):
    before, both, other = state(), [ExitStack(), ExitStack()], ValueError("mine")
    say(ABANDONED)
    assert heard == [ABANDONED]
    for one in both:
        one.enter_context(one_error_only())
    for one in (both[first], both[second]):
        say(ABANDONED)
        say(other)
        assert not logging.getLogger("asyncio").filter(logging.makeLogRecord({}))
        one.close()
    assert heard == [ABANDONED, other, other] and state() == before
    say(ABANDONED)
    assert heard[-1] is ABANDONED


def test_inside_of_one_another(heard):
    before = state()
    with one_error_only():
        with pytest.raises(OSError, match="first"), one_error_only():
            raise OSError("first")
        say(ABANDONED)
    assert heard == [] and state() == before
