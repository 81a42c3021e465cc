"""An append on an object store: its requests, how often it waits for them, and its time when each takes 20 ms more.

The server is that of the tests, so this needs the whole repository and the extra ``test``. It shares the processors
with its clients, and answers one request at a time once the latency is over.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from typing import Any

from benchmarks.append import Appending
from benchmarks.contestants import Maker, Xarray, Zappend, check, start
from benchmarks.measure import ROOT, Setting, alternate
from benchmarks.table import Goal, Table, table_of
from benchmarks.works import Work

LATENCY = 0.02
QUIET = 0.1
ONE = Work("1 chunk", 1, (64, 64), (64, 64))
MANY = Work("48 chunks", 3, (256, 256), (64, 64))
SOME = Work("4 chunks", 1, (64, 64), (32, 32))

ME = "zappend 2"
MAKERS: dict[str, Maker] = {
    ME: partial(Zappend, zarr_format=2),
    "zappend 3": partial(Zappend, zarr_format=3),
    "xarray 2": partial(Xarray, zarr_format=2),
    "xarray 3": partial(Xarray, zarr_format=3),
}


def run(setting: Setting) -> list[Table]:
    if str(ROOT / "tests") not in sys.path:
        sys.path.append(str(ROOT / "tests"))
    import s3server

    setting = setting.few(1 if setting.quick else 5)
    tables = []
    for work in [SOME] if setting.quick else [ONE, MANY]:
        with s3server.S3Server() as server:
            tables.append(measure(work, server, s3server, setting))
    return tables


def measure(work: Work, server: Any, s3server: Any, setting: Setting) -> Table:
    options = {**server.storage_options(), "skip_instance_cache": False}  # one client, as whoever appends again has it
    names = [ME, "xarray 2"] if setting.quick else MAKERS
    makers = {name: partial(MAKERS[name], storage_options=options) for name in names}
    contestants = start(makers, f"s3://{s3server.BUCKET}", work, setting.tell)
    appending = {name: Appending(contestant) for name, contestant in contestants.items()}
    for each in appending.values():
        each(0)()  # what is found out once in a process is known from here on
    requests, rounds = {}, {}
    for name, each in appending.items():
        gate = Gate()
        server.set_policy(s3server.every(lambda request: True, s3server.call(gate.wait)))
        each(0)()
        requests[name], rounds[name] = server.count(), gate.rounds
    delay = s3server.call(lambda request: time.sleep(LATENCY))
    server.set_policy(s3server.every(lambda request: True, delay))
    times = alternate(appending, setting.rounds, warmup=0)
    server.set_policy(None)
    check(contestants, work, 3 + setting.rounds)
    most = work.chunks + 1 + 18 + 3 * (work.variables - 1)
    goals = [
        goal
        for name in requests
        if name.startswith("zappend")
        for goal in (
            Goal(f"requests of {name}", requests[name], most=most),
            Goal(f"rounds of {name}", rounds[name], most=12),
        )
    ]
    title = f"{work.name} on S3 with {LATENCY * 1e3:g} ms of latency"
    return table_of(title, times, [ME], goals, {"requests": requests, "rounds": rounds})


class Gate:
    """Lets requests wait until no further one has come for a while, and then all go on: that is a round of waiting.

    So a client that sends what it can side by side has as many rounds as it has steps that need each other's answers,
    however slow it is to send.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self._changed = threading.Condition()
        self._latest = 0.0

    def wait(self, request: object) -> None:
        """Wait for the end of the round in which `request` comes."""
        with self._changed:
            self._latest, mine = time.monotonic(), self.rounds
            while self.rounds == mine:
                left = self._latest + QUIET - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                else:
                    self.rounds += 1
                    self._changed.notify_all()
