"""One writer at a time on S3, between real processes: many that contend, killed ones, and stopped ones that go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import fsspec
import pytest
from s3server import BUCKET, WAIT, Request, S3Server, call, once

import zappend
from zappend.errors import CommitStateUnknown, Locked, LockLost
from zappend.txn import Transaction
from zappend.txn.clock import Clock
from zappend.txn.objectstore import ObjectStorage
from zappend.txn.s3 import S3Objects

CUBE = {"zarr.json": b"old root", "a/c/0": b"old chunk"}
LEASE = 1.0
QUIET = 0.5
"""Seconds; what a process sends over loopback has arrived long before."""

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["zappend.api", "zappend.txn.s3"])


Open = Callable[..., ObjectStorage]
"""Returns the cube as this process sees it; its arguments are those of `ObjectStorage`."""


def opener(options: dict[str, Any]) -> Open:
    """Return what opens the cube by one connection, which takes a while to set up."""
    fs = fsspec.filesystem("s3", **options)
    cube, place = (S3Objects(fs, f"{BUCKET}/c.zarr{end}") for end in ("", ".zappend"))

    def open_cube(**how: Any) -> ObjectStorage:
        return ObjectStorage(cube, place, **{"lease": LEASE, "quiet": QUIET, **how})

    return open_cube


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def open_cube(running: S3Server) -> Open:
    return opener(running.storage_options())


@pytest.fixture
def server(running: S3Server) -> S3Server:
    """A server with a cube."""
    running.reset()
    for key, value in CUBE.items():
        running.put(f"c.zarr/{key}", value)
    return running


def cube(server: S3Server) -> dict[str, bytes]:
    return {key.removeprefix("c.zarr/"): value for key, value in server.objects("c.zarr/").items()}


def everything(changes: dict[str, bytes]) -> dict[str, bytes]:
    """Return what the bucket holds when the cube was changed and nobody writes."""
    return {f"c.zarr/{key}": value for key, value in {**CUBE, **changes}.items()}


# Many processes.


class Turns:
    """Lets nobody have two turns running while others want one: else who releases a lock would be the next to get it.

    The longer they wait for their turn, the more of them are at the lock when it is released.
    """

    def __init__(self, writers: int) -> None:
        self._changed = processes.Condition()
        self._latest = processes.Value("i", 0, lock=False)
        self._remaining = processes.Value("i", writers, lock=False)
        self.start = processes.Barrier(writers)

    def pause(self) -> None:
        me = os.getpid()
        with self._changed:
            self._latest.value = me
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._latest.value != me or self._remaining.value == 1)

    def end(self) -> None:
        with self._changed:
            self._remaining.value -= 1
            self._changed.notify_all()


def count(options: dict[str, Any], rounds: int, turns: Turns, counted: Any) -> None:
    """Count on, `rounds` times; tell which numbers were reached, and which ones perhaps."""
    target = opener(options)(lease=4.0)
    reached: list[int] = []
    perhaps: list[int] = []
    turns.start.wait()
    for _ in range(rounds):
        number = 0
        try:
            with zappend.transaction(target, lock_timeout=3600) as txn:
                number = int(txn.get("count", b"0")) + 1
                txn["count"] = str(number).encode()
        except LockLost:
            pass  # this process was given no time for a whole lease
        except CommitStateUnknown:
            perhaps.append(number)
        else:
            reached.append(number)
        turns.pause()
    turns.end()
    counted.put((reached, perhaps))


def check_counting(server: S3Server, writers: int, rounds: int) -> None:
    turns, counted = Turns(writers), processes.Queue()
    arguments = server.storage_options(), rounds, turns, counted
    running = [processes.Process(target=count, args=arguments, daemon=True) for _ in range(writers)]
    for process in running:
        process.start()
    results = [counted.get(timeout=WAIT * rounds) for _ in running]
    for process in running:
        process.join(WAIT)
        assert process.exitcode == 0
    reached = sorted(number for numbers, _ in results for number in numbers)
    perhaps = {number for _, numbers in results for number in numbers}
    last = int(cube(server)["count"])
    # Each number once: nobody read while another one was between reading and writing.
    assert len(reached) == len(set(reached))
    assert set(reached) <= set(range(1, last + 1)) <= {*reached, *perhaps}
    assert len(reached) > writers * rounds * 0.8, "locks were lost all the time"
    assert server.objects() == everything({"count": str(last).encode()})
    who = {number: writer for writer, (numbers, _) in enumerate(results) for number in numbers}
    handed = sum(who.get(number) != who.get(number + 1) for number in range(1, last))
    assert handed > last * 0.6, "they did not contend"
    print(f"{writers} writers, {rounds} rounds each: counted to {last}, handed over {handed} times")


def test_processes_count(server: S3Server) -> None:
    check_counting(server, 4, 10)


@pytest.mark.campaign
@pytest.mark.parametrize("rounds", [25, 200])
def test_processes_count_campaign(server: S3Server, rounds: int) -> None:
    check_counting(server, 8, rounds)


# A holder that dies, stops, or is robbed.


class Writer:
    """A process in the midst of a transaction, which says what it does and goes on when it is told."""

    def __init__(self, server: S3Server, work: Work, lease: float = LEASE) -> None:
        self.ours, theirs = processes.Pipe()
        arguments = server.storage_options(), lease, work, theirs
        self.process = processes.Process(target=write, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        assert self.says() == "holds"

    def says(self) -> object:
        assert self.ours.poll(WAIT)
        return self.ours.recv()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        if number == signal.SIGSTOP:
            # On return it stands still; a stopped child is told of as one that ended is.
            with open(f"/proc/{self.process.pid}/stat") as stat:
                while stat.read().rpartition(")")[2].split()[0] != "T":
                    stat.seek(0)

    def end(self) -> int | None:
        self.process.join(WAIT)
        self.ours.close()
        return self.process.exitcode


def write(options: dict[str, Any], lease: float, work: Work, say: Connection) -> None:
    try:
        with zappend.transaction(opener(options)(lease=lease)) as txn:
            work(txn)
            say.send("holds")
            say.recv()
            txn["b/c/1"] = b"more"
        say.send("committed")
    except Exception as error:
        say.send((type(error).__name__, str(error)))


Work = Callable[[Transaction], None]


def overwrite(txn: Transaction) -> None:
    txn["a/c/0"] = b"half-way"
    txn["zarr.json"] = b"half-way"


def grow(txn: Transaction) -> None:
    txn.log_ahead(["b/c/0", "b/c/1"])
    txn["b/c/0"] = b"half-way"
    txn["zarr.json"] = b"half-way"


@pytest.fixture(params=[overwrite, grow])
def work(request: pytest.FixtureRequest) -> Work:
    """A change in place, which undo restores, and one of new keys, which undo deletes."""
    chosen: Work = request.param
    return chosen


def test_a_live_holder_keeps_the_lock(server: S3Server, open_cube: Open) -> None:
    """Who watches it until it is seen to live is told who it is."""
    writer = Writer(server, grow, lease=6.0)
    uses: tuple[Callable[[ObjectStorage], object], ...] = (
        lambda cube: zappend.transaction(cube).__enter__(),
        zappend.rollback,
    )
    for use in uses:
        with pytest.raises(Locked, match=f"pid {writer.process.pid} of") as caught:
            use(open_cube())
        assert caught.value.holder["pid"] == writer.process.pid
    writer.ours.send("go on")
    assert writer.says() == "committed"
    assert writer.end() == 0
    assert server.objects() == everything({"zarr.json": b"half-way", "b/c/0": b"half-way", "b/c/1": b"more"})


def test_a_killed_holder_is_succeeded_after_a_lease(server: S3Server, open_cube: Open, work: Work) -> None:
    writer = Writer(server, work)
    writer.signal(signal.SIGKILL)
    assert writer.end() == -signal.SIGKILL
    assert server.objects("c.zarr.zappend/").keys() == {"c.zarr.zappend/lock"}
    assert cube(server) != CUBE
    with zappend.transaction(open_cube()) as txn:
        assert dict(txn) == CUBE
        txn["next"] = b"is in"
    assert server.objects() == everything({"next": b"is in"})


def test_one_killed_after_its_decision_is_completed(server: S3Server, open_cube: Open) -> None:
    killed = threading.Event()

    def wait(request: Request) -> None:
        assert killed.wait(WAIT)

    server.set_policy(once(lambda request: (request.op, request.key) == ("PUT", "c.zarr/zarr.json"), call(wait)))
    writer = Writer(server, grow)
    writer.ours.send("go on")
    server.wait_for(lambda: server.fired)
    writer.signal(signal.SIGKILL)
    assert writer.end() == -signal.SIGKILL
    killed.set()
    assert zappend.rollback(open_cube()).outcome == "completed"
    assert server.objects() == everything({"zarr.json": b"half-way", "b/c/0": b"half-way", "b/c/1": b"more"})


def test_a_stopped_holder_is_robbed_and_then_changes_nothing(server: S3Server, open_cube: Open, work: Work) -> None:
    """Whatever it does when it goes on: what its successor wrote stays."""
    writer = Writer(server, work)
    writer.signal(signal.SIGSTOP)
    with zappend.transaction(open_cube()) as txn:
        assert dict(txn) == CUBE
        txn["a/c/0"] = b"ours"
        txn["b/c/0"] = b"ours"
    expected = everything({"a/c/0": b"ours", "b/c/0": b"ours"})
    assert server.objects() == expected
    writer.signal(signal.SIGCONT)
    writer.ours.send("go on")
    name, message = writer.says()  # type: ignore[misc]
    assert name == "LockLost"
    assert "the lock was lost" in message
    assert writer.end() == 0
    assert server.objects() == expected


def test_a_stopped_holder_goes_on_while_its_successor_writes(server: S3Server, open_cube: Open) -> None:
    writer = Writer(server, overwrite)
    writer.signal(signal.SIGSTOP)
    with zappend.transaction(open_cube()) as txn:
        txn["b/c/0"] = b"ours"
        writer.signal(signal.SIGCONT)
        writer.ours.send("go on")
        name, message = writer.says()  # type: ignore[misc]
        assert name == "LockLost"
        assert f"pid {os.getpid()} of" in message
        txn["b/c/1"] = b"ours"
    assert writer.end() == 0
    assert server.objects() == everything({"b/c/0": b"ours", "b/c/1": b"ours"})


class Hasty(Clock):
    """A clock for those who must not wait."""

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"{seconds} s are waited")


def test_break_lock_takes_over_at_once(server: S3Server, open_cube: Open, work: Work) -> None:
    """The one that was robbed, though it lives, commits nothing any more; what it writes is beyond what readers see."""
    writer = Writer(server, work, lease=60.0)
    assert zappend.rollback(open_cube(lease=60.0, clock=Hasty()), break_lock=True).outcome == "rolled back"
    assert server.objects() == everything({})
    writer.ours.send("go on")
    name, message = writer.says()  # type: ignore[misc]
    assert name == "LockLost"
    assert "the lock was lost to nobody" in message
    assert writer.end() == 0
    assert server.objects() in (everything({}), everything({"b/c/1": b"more"}))
