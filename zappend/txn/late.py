"""Requests whose answer was lost: whether one may still take effect, and how to wait until none can any more."""

from __future__ import annotations

import logging

from zappend.txn.clock import Clock

__all__ = ["LateRequests"]

logger = logging.getLogger("zappend")


class LateRequests:
    """The requests of one writer that may arrive late.

    Parameters
    ----------
    name
        The target, for messages.
    quiet
        Seconds after which a request that was sent cannot take effect any more; with 0 none is ever late.
    clock
        What time it is.

    Attributes
    ----------
    possible
        Whether one may still take effect, so that whoever comes next has to wait.
    """

    def __init__(self, name: str, quiet: float, clock: Clock) -> None:
        self._name = name
        self._quiet = quiet
        self._clock = clock
        self._until = 0.0
        self.possible = False

    def note(self) -> None:
        """Note that a request may take effect from now on until the quiet time is over."""
        if self._quiet:
            self.possible, self._until = True, self._clock.now() + self._quiet

    def wait_out(self) -> None:
        """Return when no request can take effect any more."""
        left = self._until - self._clock.now()
        if self.possible and left > 0:
            logger.warning(
                "%s: an answer was lost; waiting %.0f s until the request cannot arrive any more", self._name, left
            )
            self._clock.sleep(left)
        self.possible = False
