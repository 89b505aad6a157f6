"""Keeps Orbax's chatter off the terminal, and nothing else."""

import contextlib
import gc
import inspect
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path


def quiet(record: logging.LogRecord) -> bool:
    """A log filter: Orbax logs some twenty INFO lines per save, and every error that it raises, per thread.

    Its warnings pass.
    """
    return "orbax" not in Path(record.pathname).parts or (record.levelno > logging.INFO and not record.exc_info)


@contextlib.contextmanager
def one_error_only() -> Iterator[None]:
    """Let a failing restore or save raise its first error, and no more. Several may overlap, and end in any order.

    Orbax reads all arrays concurrently and closes its event loop at the first failure. Each read that is still under
    way then prints a traceback from another thread, hundreds of lines that bury the one that matters.
    """
    with _SILENCE:
        try:
            yield
        except Exception as error:
            time.sleep(0.1)  # the other threads' reads end within milliseconds
            traceback.clear_frames(error.__traceback__)  # they hold the reads' coroutines, which complain when they go
            gc.collect()
            raise


class _Shared:
    """A context of which there is one at a time, from the first entry to the last exit."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[None]]):
        self._make, self._users = make, 0
        self._lock, self._entered = threading.Lock(), contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._entered.enter_context(self._make())
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._entered.close()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    excepthook, unraisablehook = sys.excepthook, sys.unraisablehook

    def on_exception(kind, error, trace):
        if not _abandoned(error):
            excepthook(kind, error, trace)

    def on_unraisable(unraisable):
        if not (_abandoned(unraisable.exc_value) or _of_orbax(unraisable.object)):
            unraisablehook(unraisable)

    sys.excepthook, sys.unraisablehook = on_exception, on_unraisable
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.addFilter(_nothing)  # "exception was never retrieved", once per read
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
        asyncio_log.removeFilter(_nothing)


_SILENCE = _Shared(_silence)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _abandoned(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)


def _of_orbax(thing: object) -> bool:
    return inspect.iscoroutine(thing) and "orbax" in Path(thing.cr_code.co_filename).parts
