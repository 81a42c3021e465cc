"""What time it is, for leases; one place, so that tests can let time pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Time as one process measures it: it goes on while the computer is suspended, where the system can tell."""

    def now(self) -> float:
        """Return seconds since some point in the past."""
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boottime is None else time.clock_gettime(boottime)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def repeat(self, do: Callable[[], None], seconds: float) -> Callable[[], None]:
        """Call `do` every `seconds` in a thread of its own; return what ends that."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(seconds):
                do()

        threading.Thread(target=run, name="zappend lease", daemon=True).start()
        return ended.set
