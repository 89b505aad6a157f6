"""A process of the run that is lost; a save that fails: nobody waits for it, nothing of it stays, it is named once."""

import re
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import jax

# How the runtime begins what it says of others: jax raises it as an error of its own, or as a ValueError.
_OF_OTHERS = re.compile("(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNAVAILABLE|UNKNOWN): ")


def peer_lost(error: BaseException | None) -> str:
    """What the runtime says, in a line of at most 200 characters, where another process of the run is gone; else ""."""
    if jax.process_count() == 1:
        return ""
    said = (str(e) for e in _causes(error) if isinstance(e, jax.errors.JaxRuntimeError | ValueError))
    return next((text.splitlines()[0][:200] for text in said if _OF_OTHERS.match(text)), "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def unless_failing(barrier: Callable[..., None]) -> Callable[..., None]:
    """The barrier, at which a save that has failed raises: Orbax would wait 20 minutes for the others to come there."""

    def sync(*, key: str, timeout_ms: int) -> None:
        in_background = threading.current_thread() is not threading.main_thread()
        if in_background and (error := sys.exception()):
            raise error
        barrier(key=key, timeout_ms=timeout_ms)

    return sync


def let_finish(error: BaseException, before: Set[threading.Thread], seconds: float = 2.0) -> None:
    """Wait for the threads that were not there ``before`` a save that has failed; they meet more errors.

    What the error holds of the other writes goes now, too: they complain when they go.
    """
    end = time.monotonic() + seconds
    for thread in set(threading.enumerate()) - before:
        threading.Thread.join(thread, max(0.0, end - time.monotonic()))  # Orbax's own join raises
    for cause in _causes(error):
        traceback.clear_frames(cause.__traceback__)


def remove_unfinished(directory: Path, pattern: str) -> None:
    """Delete the folders of a save that failed. Writes still under way make them anew: until that ends, or 10 s."""
    calm = 0
    for _ in range(200):
        found = list(directory.glob(pattern))
        calm = 0 if found else calm + 1
        if calm == 5:
            return
        for folder in found:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
