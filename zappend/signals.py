"""SIGTERM and SIGHUP end a command as Ctrl-C does: by an exception, so that what is under way is rolled back."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Ended", "exit_code_of", "interrupting"]

ENDING = ("SIGTERM", "SIGHUP")


class Ended(KeyboardInterrupt):
    """A signal asks the process to end.

    Parameters
    ----------
    number
        The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def exit_code_of(error: BaseException | None) -> int:
    """Return the exit code of a command that Ctrl-C or `Ended` has interrupted, as shells have it."""
    return 128 + (error.number if isinstance(error, Ended) else signal.SIGINT)


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise `Ended` in the block when such a signal comes, unless it is ignored, as with ``nohup``.

    Only the main thread can do this; in any other one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    # A terminal that is closed, or a system that goes down, sends several; the others must not cut the rollback off.
    error = sys.exception()
    while error is not None:
        if isinstance(error, Ended):
            return
        error = error.__context__
    raise Ended(number)
