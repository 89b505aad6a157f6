"""Keeps Orbax's chatter off the terminal, and nothing else."""

import contextlib
import gc
import inspect
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path


def quiet(record: logging.LogRecord) -> bool:
    """A log filter: Orbax logs some twenty INFO lines per save, and every error that it raises, per thread.

    Its warnings pass.
    """
    return "orbax" not in Path(record.pathname).parts or (record.levelno > logging.INFO and not record.exc_info)


@contextlib.contextmanager
def one_error_only() -> Iterator[None]:
    """Let a failing restore raise its first error, and no more.

    Orbax reads all arrays concurrently and closes its event loop at the first failure. Each read that is still under
    way then prints a traceback from another thread, hundreds of lines that bury the one that matters.
    """
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
    except Exception as error:
        time.sleep(0.1)  # the other threads' reads end within milliseconds
        traceback.clear_frames(error.__traceback__)  # they hold the reads' coroutines, which complain when they go
        gc.collect()
        raise
    finally:
        sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
        asyncio_log.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _abandoned(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)


def _of_orbax(thing: object) -> bool:
    return inspect.iscoroutine(thing) and "orbax" in Path(thing.cr_code.co_filename).parts
