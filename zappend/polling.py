"""Wait for what is not there yet, or not whole yet: look again and again, until a timeout."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from zappend.errors import SliceError
from zappend.settings import Polling

__all__ = ["NotYet", "wait_for"]

T = TypeVar("T")

logger = logging.getLogger("zappend")

LONGEST_SLEEP = 3600.0
"""Seconds after which is looked again, however long the interval is; also what no system's sleep overflows at."""


class NotYet(SliceError):
    """The slice cannot be had as it is now; in a while it may be."""


def wait_for(
    look: Callable[[], T],
    polling: Polling | None,
    *,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what `look` returns as soon as it does not raise `NotYet`; any other error ends the waiting at once.

    Parameters
    ----------
    look
        Is called at once, then every ``polling.interval`` seconds, the last time when ``polling.timeout`` is over.
    polling
        How long and how often; with ``None``, `look` is called once.
    now, sleep
        What time it is, and how to let it pass, both in seconds.

    Raises
    ------
    NotYet
        What `look` raised last, when the time is over; a note on it says how long that was.
    """
    if polling is None:
        return look()
    end = now() + polling.timeout
    while True:
        try:
            return look()
        except NotYet as error:
            left = end - now()
            if not left > 0:
                error.add_note(f"slice_polling waited {polling.timeout:g} s for it")
                raise
            pause = min(left, LONGEST_SLEEP, polling.interval)
            logger.info("%s; looking again in %g s", error, pause)
        sleep(pause)
