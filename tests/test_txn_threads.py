"""Many threads in one transaction: originals are logged before keys change, once each, and together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import CUBE, DictCase, FolderCase, run
from test_txn_order import Watcher

from zappend.errors import TransactionClosed
from zappend.testing import Call, Faults, FaultyMapping, fail
from zappend.txn import Transaction, transaction
from zappend.txn.log import Log
from zappend.txn.memory import MappingStorage

THREADS = 10


def in_threads(work: Callable[[int], None]) -> list[BaseException]:
    """Do `work` with 0, 1, … in as many threads at once; return what they raised."""
    start = threading.Barrier(THREADS)
    raised: list[BaseException] = []

    def thread(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(THREADS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
        assert not each.is_alive(), "a deadlock"
    return raised


def keys(number: int, count: int) -> list[str]:
    return [f"{array}/{number}.{n}" for array in "ab" for n in range(count)]


@pytest.mark.attack(41)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_unplanned_keys_are_logged_before_they_change(folder: FolderCase, end: str) -> None:
    folder.reset({**CUBE, **{key: b"old" for number in range(0, THREADS, 2) for key in keys(number, 10)}})
    old = folder.state()
    watcher = Watcher(folder)
    with folder.begin(watcher) as txn:

        def work(number: int) -> None:
            for key in keys(number, 10):
                txn[key] = key.encode()
                assert txn[key] == key.encode()

        assert in_threads(work) == []
        getattr(txn, end)()
    assert watcher.broken == []
    heads = sum(call.name == "rename" and call.path == f"{folder.place}/undo" for call in watcher.calls)
    assert heads < THREADS * 20 / 2, "a log object holds the keys of several threads"
    if end == "rollback":
        assert folder.state() == old
    else:
        assert folder.cube() == {**CUBE, **{key: key.encode() for n in range(THREADS) for key in keys(n, 10)}}


class PreImages(Faults):
    """Notes how often the original of each key was logged in a mapping."""

    def __init__(self, data: dict[str, bytes]) -> None:
        super().__init__()
        self.data = data

    def originals(self) -> dict[str, list[bytes | None]]:
        log = Log.found(MappingStorage(self.data).place)
        assert log is not None
        assert len({*log.absent, *log.changed}) == len(log.absent) + len(log.changed)
        found: dict[str, list[bytes | None]] = {key: [None] for key in log.absent}
        for originals in log.originals():
            for key, value in originals.items():
                found.setdefault(key, []).append(value)
        return found


@pytest.mark.attack(41)
def test_each_original_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zappend.txn.store.GROUP_KEYS", 3)
    for _ in range(5):
        data = {key: b"old" for number in range(THREADS) for key in keys(number, 10)}
        old = dict(data)
        watch = PreImages(data)
        with transaction(FaultyMapping(data, watch)) as txn:

            def work(number: int, txn: Transaction = txn) -> None:
                if number % 3 == 0:
                    txn.log_ahead([f"c/{number}"], keys(number, 10)[:7])
                txn.update(dict.fromkeys(keys(number, 10), b"new"))
                txn[f"c/{number}"] = b"new"

            assert in_threads(work) == []
            originals = watch.originals()
            assert {len(values) for values in originals.values()} == {1}
            assert all(values == [old.get(key)] for key, values in originals.items())
            txn.rollback()
        assert data == old


class Gate(Faults):
    """Holds the first call on a key until it is let through; `passed` tells of one that came by meanwhile."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self.reached, self.open, self.passed = threading.Event(), threading.Event(), threading.Event()

    def call(self, call: Call, do: Any, half: Any = None) -> Any:
        if call.path == self.key and not self.reached.is_set():
            self.reached.set()
            assert self.open.wait(60)
        elif not self.open.is_set():
            self.passed.set()
        return super().call(call, do, half)


class Noticing(dict[str, None]):
    """A dict that tells when something is put into it."""

    def __init__(self) -> None:
        super().__init__()
        self.noticed = threading.Event()

    def update(self, *args: Any, **more: Any) -> None:
        super().update(*args, **more)
        self.noticed.set()


@pytest.mark.attack(41)
def test_key_in_the_group_of_another_thread_is_not_logged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of an update is in another thread's group; when it has been written, its bytes are no original any more."""
    monkeypatch.setattr("zappend.txn.store.GROUP_KEYS", 2)
    data = {f"a/{n}": b"old" for n in range(6)}
    old = dict(data)
    with transaction(data) as txn:
        lead, waiting = txn._lead, Noticing()
        others: list[threading.Thread] = []

        def other_leads(group: list[str]) -> None:
            assert waiting.noticed.wait(60)
            lead(group)

        def lead_first_half(group: Any, new: Any = ()) -> None:
            lead(group, new)
            if not others:
                # Another thread comes between. It takes what waits, and is still at it when this one looks again.
                with txn._guard:
                    taken, txn._waiting = list(txn._waiting), waiting
                    txn._flushing = True
                others.append(threading.Thread(target=other_leads, args=(taken,)))
                others[0].start()

        monkeypatch.setattr(txn, "_lead", lead_first_half)
        txn.update({f"a/{n}": b"new" for n in range(4)})
        txn["a/5"] = b"new"
        others[0].join(60)
        assert all(values == [b"old"] for values in PreImages(data).originals().values())
        txn.rollback()
    assert data == old


@pytest.mark.attack(41)
def test_only_one_group_is_in_flight() -> None:
    gate = Gate(".zappend/undo")
    data = {"a/0": b"old"}
    with transaction(FaultyMapping(data, gate)) as txn:
        writer = threading.Thread(target=txn.__setitem__, args=("a/0", b"new"))
        planner = threading.Thread(target=txn.log_ahead, args=(["a/1"],))
        writer.start()
        assert gate.reached.wait(60)
        planner.start()
        assert not gate.passed.wait(0.2)
        gate.open.set()
        writer.join(60)
        planner.join(60)
        assert PreImages(data).originals() == {"a/0": [b"old"], "a/1": [None]}


@pytest.mark.attack(42)
def test_commit_waits_for_running_writes_and_refuses_new_ones() -> None:
    gate = Gate("a/0")
    data: dict[str, bytes] = {}
    txn = transaction(FaultyMapping(data, gate))
    txn.__enter__()
    writer = threading.Thread(target=lambda: txn.__setitem__("a/0", b"0"))
    writer.start()
    assert gate.reached.wait(60)
    commit = threading.Thread(target=txn.commit)
    commit.start()
    while txn._closed is None:
        assert commit.is_alive()
    with pytest.raises(TransactionClosed, match="commits and takes no further work"):
        txn["a/1"] = b"1"
    assert ".zappend/decision" not in data
    assert txn.status == "active"
    gate.open.set()
    writer.join(60)
    commit.join(60)
    assert txn.status == "committed"
    assert data == {"a/0": b"0"}


def test_interrupt_while_commit_waits_rolls_back() -> None:
    gate = Gate("a/0")
    data: dict[str, bytes] = {}
    txn = transaction(FaultyMapping(data, gate))
    txn.__enter__()
    drain = txn._drain

    def interrupted() -> None:
        txn._drain = drain  # type: ignore[method-assign]
        gate.open.set()
        raise KeyboardInterrupt

    txn._drain = interrupted  # type: ignore[method-assign]
    writer = threading.Thread(target=lambda: txn.__setitem__("a/0", b"0"))
    writer.start()
    assert gate.reached.wait(60)
    with pytest.raises(KeyboardInterrupt):
        txn.commit()
    writer.join(60)
    assert txn.status == "rolled back"
    assert data == {}


def test_one_key_is_written_by_one_thread_at_a_time() -> None:
    case = DictCase()
    with case.begin() as txn:

        def work(number: int) -> None:
            for n in range(30):
                txn["a/0"] = b"%d.%d" % (number, n)
                txn.setdefault("a/zarr.json", b"document")
                if n % 10 == 0:
                    txn.delete_folder(f"{number}/")
                txn[f"{number}/{n}"] = b"staged"
                assert len(list(txn)) > 0

        assert in_threads(work) == []
    assert sorted(case.data)[-1] == "a/zarr.json"


def test_failure_in_one_thread_stops_all() -> None:
    case = DictCase()
    case.reset(CUBE)
    old = case.state()
    refused: list[BaseException] = []

    def work(txn: Transaction) -> None:
        def thread(number: int) -> None:
            for n in range(20):
                txn[f"c/{number}.{n}"] = b"new"

        refused.extend(in_threads(thread))

    raised = run(case, work, Faults(31, fail(OSError("disk on fire"))))
    assert isinstance(raised, TransactionClosed)
    assert len(refused) == THREADS
    assert sum(type(error) is OSError for error in refused) == 1
    assert case.state() == old


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_kept_for_one_transaction(folder: FolderCase, fails: bool) -> None:
    """Many callers, each of whom writes many keys, of which one fails: none writes any more when it is rolled back."""
    folder.reset(CUBE)
    before, old = set(threading.enumerate()), folder.state()
    storage = folder.target(Faults(THREADS * 20, fail(OSError("the disk is gone"))) if fails else None)
    values = [{f"a/{number}.{i}": bytes([number, i]) for i in range(7)} for number in range(THREADS)]
    try:
        with transaction(storage) as txn:
            raised = in_threads(lambda number: txn.update(values[number]))
            if raised:
                raise raised[0]
    except (OSError, TransactionClosed):
        assert fails
    assert {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("zappend")} == set()
    assert (folder.state() == old) == fails
    if not fails:
        assert folder.cube() == {**CUBE, **{key: value for each in values for key, value in each.items()}}
