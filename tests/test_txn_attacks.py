"""Attacks on the protocol, by their numbers in ``docs/transactions.md``: those that no other test makes.

`test_every_attack_is_named` sees to it that each number has a test somewhere, marked with ``pytest.mark.attack``.
"""

from __future__ import annotations

import ast
import errno
import itertools
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import CUBE, Case, DictCase, FolderCase, ObjectCase, run
from faultlab import days
from obstore.store import S3Store
from s3server import (
    ACCESS_DENIED,
    BUCKET,
    DROP_ANSWER,
    DROP_REQUEST,
    INTERNAL_ERROR,
    REGION,
    S3Server,
    error_after,
    every,
)
from zarr.core.buffer import cpu

import zappend
from zappend.errors import (
    CommitStateUnknown,
    Locked,
    LockLost,
    SliceError,
    TargetChanged,
    TargetError,
    TransactionClosed,
)
from zappend.testing import Call, Faults, FaultyMapping, Killed, SteppingClock, fail
from zappend.txn import Transaction, rollback, transaction
from zappend.txn.local import LocalStorage
from zappend.txn.lock import this_process
from zappend.txn.lockbody import Body
from zappend.txn.mappings import FileSystemMapping
from zappend.txn.objects import Conflict, Objects, Unclear
from zappend.txn.obstore import ObstoreObjects
from zappend.txn.s3 import S3Objects
from zappend.txn.store import is_document

Which = Callable[[Call], bool]

LOCK = "cube.zappend/lock"
LEASE, QUIET = 60, 90

FORMATS: tuple[Any, ...] = (2, 3)


def test_every_attack_is_named() -> None:
    tests = Path(__file__).resolve().parent
    named: dict[int, list[str]] = {}
    for path in sorted(tests.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for number in attacks_of(node):
                    named.setdefault(number, []).append(f"{path.name}::{node.name}")
    text = (tests.parent / "docs" / "transactions.md").read_text()
    listed = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert listed == list(range(1, 50))
    assert sorted(named) == listed
    print(f"{sum(len(names) for names in named.values())} tests for {len(named)} attacks")


def attacks_of(test: ast.FunctionDef) -> Iterator[int]:
    for decorator in test.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.attack":
            yield from (ast.literal_eval(argument) for argument in decorator.args)


# What happens at one call that is picked.


class Before(Faults):
    """Does `then` once, before the call that `which` picks, counted from the `nth`."""

    def __init__(self, which: Which, then: Callable[[], object], nth: int = 1) -> None:
        super().__init__()
        self._which = which
        self._then = then
        self._left = nth

    def call(self, call: Call, do: Any, half: Any = None) -> Any:
        if not self.fired and self._which(call):
            self._left -= 1
            if self._left == 0:
                self.fired = True
                self._then()
        return super().call(call, do, half)


class Late(Faults):
    """Keeps `times` of the requests that `which` picks; each has no answer, and comes when `arrive` is called.

    With `performed` it has been performed, too, so what comes is a copy. With `kills` the sender is dead from then on.
    """

    def __init__(self, which: Which, times: int = 1, *, performed: bool = False, kills: bool = False) -> None:
        super().__init__()
        self.kept: list[Callable[[], object]] = []
        self.active = True
        self._which = which
        self._times = times
        self._performed = performed
        self._kills = kills

    def call(self, call: Call, do: Any, half: Any = None) -> Any:
        if self._kills and self.kept:
            raise Killed
        if self.active and self._which(call) and len(self.kept) < self._times:
            self.kept.append(do)
            if self._performed:
                do()
            raise Killed if self._kills else Unclear("no answer")
        return super().call(call, do, half)

    def arrive(self) -> None:
        """Let what was kept come; whether it is refused is the store's business."""
        assert self.kept, "nothing was kept"
        for request in self.kept:
            with suppress(Conflict):
                request()


def puts(key: str) -> Which:
    return lambda call: (call.name, call.path) == ("put", key)


def changes_lock(call: Call) -> bool:
    return call.name in ("put", "delete", "delete_many") and call.path.endswith("lock")


def removes_lock(call: Call) -> bool:
    return call.name.startswith("delete") and call.path.endswith("lock")


@pytest.fixture
def bucket() -> ObjectCase:
    case = ObjectCase()
    case.reset(CUBE)
    return case


def left_behind(case: ObjectCase, state: str, work: Callable[[Transaction], None]) -> None:
    """Kill a transaction that does `work` when its lock says `state`."""
    for at in itertools.count(2):
        case.reset(CUBE)
        assert isinstance(run(case, work, Faults(at, lasting=True)), Killed), f"never {state}"
        case.bury()
        if LOCK in case.data and Body.parse(case.data[LOCK]).state == state:
            return


def grow(txn: Transaction) -> None:
    """Do as an append does."""
    txn.log_ahead(["a/2.0"])
    txn["a/2.0"] = b"new row"
    txn["a/.zarray"] = b"longer"
    txn[".zmetadata"] = b"longer"


def nothing_is_left(case: ObjectCase) -> bool:
    return not any("zappend" in key for key in case.data)


# Who holds the lock of an object store.


@pytest.mark.attack(4)
def test_two_take_over_one_lock(bucket: ObjectCase) -> None:
    left_behind(bucket, "hot", grow)
    first: list[Transaction] = []

    def first_one_comes() -> None:
        first.append(bucket.begin().__enter__())
        first[0]["z/0"] = b"first"

    # Its first change of the lock is a creation, which is refused; the second one takes over what it has watched.
    faults = Before(changes_lock, first_one_comes, nth=2)
    with pytest.raises(Locked):
        bucket.begin(faults).__enter__()
    assert faults.fired
    first[0].commit()
    assert bucket.cube() == {**CUBE, "z/0": b"first"}
    assert nothing_is_left(bucket)


@pytest.mark.attack(5)
@pytest.mark.parametrize("performed", [False, True])
def test_late_creation_of_a_lock(bucket: ObjectCase, performed: bool) -> None:
    late = Late(puts("lock"), performed=performed)
    robbed = bucket.begin(late).__enter__()
    bucket.bury()
    assert run(bucket, grow) is None
    expected = bucket.cube()
    assert nothing_is_left(bucket)
    late.arrive()
    assert LOCK in bucket.data, "it could be created"
    with pytest.raises(LockLost):
        robbed["a/2.0"] = b"robbed"
    with suppress(LockLost, TransactionClosed):
        robbed.commit()
    assert bucket.cube() == expected
    assert rollback(bucket.target()).outcome == "clean"
    assert bucket.cube() == expected
    assert nothing_is_left(bucket)


@pytest.mark.attack(12)
def test_finished_writer_does_not_remove_the_lock_of_its_successor(bucket: ObjectCase) -> None:
    late = Late(removes_lock)
    assert run(bucket, grow, late) is None
    with bucket.begin() as successor:
        late.arrive()
        assert LOCK in bucket.data
        successor["z/0"] = b"successor"
    assert bucket.cube()["z/0"] == b"successor"
    assert nothing_is_left(bucket)


@pytest.mark.attack(12)
def test_finished_lock_stays_where_deletes_have_no_condition(bucket: ObjectCase) -> None:
    late = Late(removes_lock)
    for value in (b"first", b"second"):
        target = bucket.target(late)
        target._place_objects.conditional_deletes = False
        begun = bucket.clock.now()
        with transaction(target) as txn:
            txn["z/0"] = value
        assert bucket.clock.now() == begun, "it is taken over at once"
        assert bucket.cube()["z/0"] == value
        assert Body.parse(bucket.data[LOCK]).state == "done"
    assert late.kept == []


class Deciding(Before):
    """Notes what the lock says when the first document is written."""

    def __init__(self, bucket: ObjectCase, which: Which, then: Callable[[], object]) -> None:
        super().__init__(which, then)
        self.state = ""
        self._bucket = bucket

    def call(self, call: Call, do: Any, half: Any = None) -> Any:
        if not self.state and puts("a/.zarray")(call):
            self.state = Body.parse(self._bucket.data[LOCK]).state
        return super().call(call, do, half)


@pytest.mark.attack(13)
def test_beat_during_the_decision(bucket: ObjectCase) -> None:
    beats: list[threading.Thread] = []

    def beat() -> None:
        beats.append(threading.Thread(target=bucket.clock.sleep, args=(LEASE / 4,)))
        beats[0].start()
        beats[0].join(0.2)  # a beat that does not wait for the decision has long been made by then

    decides = threading.Event()
    faults = Deciding(bucket, lambda call: decides.is_set() and puts("lock")(call), beat)
    with bucket.begin(faults) as txn:
        grow(txn)
        decides.set()
    beats[0].join(60)
    assert faults.fired
    assert not beats[0].is_alive()
    assert faults.state == "commit", "the decision, not the beat, is what was written"
    assert bucket.cube()[".zmetadata"] == b"longer"
    assert nothing_is_left(bucket)


@pytest.mark.attack(45)
def test_late_beat_is_no_loss(bucket: ObjectCase) -> None:
    with bucket.begin() as txn:
        txn.log_ahead(["a/2.0", "a/3.0"])
        txn["a/2.0"] = b"2"
        bucket.clock.time += 10 * LEASE  # in which no other thread could run
        txn["a/3.0"] = b"3"
        bucket.clock.time += 10 * LEASE
    assert bucket.cube() == {**CUBE, "a/2.0": b"2", "a/3.0": b"3"}
    assert nothing_is_left(bucket)


class Suspended(SteppingClock):
    """The first sleep is one of the whole computer."""

    def sleep(self, seconds: float) -> None:
        if self.time:
            super().sleep(seconds)
        else:
            self.time = 20.0 * LEASE


@pytest.mark.attack(46)
def test_writer_and_watcher_are_suspended(bucket: ObjectCase) -> None:
    bucket.clock = Suspended()
    with bucket.begin() as txn:
        txn["z/0"] = b"alive"
        with pytest.raises(Locked, match="at work"):
            bucket.begin().__enter__()
        assert bucket.clock.now() > 20 * LEASE
    assert bucket.cube()["z/0"] == b"alive"


# Writers that were robbed.


@pytest.mark.attack(6)
@pytest.mark.parametrize("when", ["before its proof", "before the answer to its proof"])
def test_robbed_writer_writes_nothing(bucket: ObjectCase, when: str) -> None:
    """What it found is there again, so that no condition keeps it from writing."""

    def others() -> None:
        bucket.bury()
        assert rollback(bucket.target()).outcome == "rolled back"

    faults = Faults()
    robbed = bucket.begin(faults).__enter__()
    robbed.log_ahead(["a/2.0"])
    if when == "before its proof":
        others()
    else:
        bucket.clock.time += LEASE / 2
        faults._at, faults._fault, faults._when = len(faults.calls) + 1, others, "after"
    with pytest.raises(LockLost):
        robbed["a/2.0"] = b"robbed"
    assert faults.fired == (when != "before its proof")
    assert bucket.cube() == CUBE


@pytest.mark.attack(6)
def test_robbed_writer_deletes_nothing_of_its_successors(bucket: ObjectCase) -> None:
    """Committed and then suspended, it looks what there is to delete when others have long finished that for it."""

    def others() -> None:
        bucket.bury()
        # By a person's word, so that no time passes, in which the lock would have to be proved again anyway.
        assert rollback(bucket.target(), break_lock=True).outcome == "completed"
        with bucket.begin() as successor:
            successor["b/0"] = b"successor"

    faults = Before(lambda call: call == Call("list", "b/"), others)
    robbed = bucket.begin(faults).__enter__()
    robbed.delete_folder("b/")
    with pytest.raises(CommitStateUnknown, match="the lock was lost"):
        robbed.commit()
    assert faults.fired
    assert bucket.cube() == {**{key: value for key, value in CUBE.items() if key[:2] != "b/"}, "b/0": b"successor"}
    assert nothing_is_left(bucket)


@pytest.mark.attack(3, 11)
def test_robbed_writer_does_not_sweep_the_log_of_its_successor(
    bucket: ObjectCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zappend.txn.objectplace.INLINE", 0)
    left_behind(bucket, "open", grow)
    successors: list[Transaction] = []

    def others() -> None:
        bucket.bury()
        successors.append(bucket.begin().__enter__())
        successors[0]["a/0.0"] = b"successor"

    faults = Before(lambda call: call == Call("list", ""), others)
    with pytest.raises(LockLost):
        bucket.begin(faults).__enter__()
    assert faults.fired
    assert [key for key in bucket.data if key.startswith("cube.zappend/undo")]
    bucket.bury()
    assert rollback(bucket.target()).outcome == "rolled back"
    assert bucket.cube() == CUBE
    assert nothing_is_left(bucket)


# Requests that are lost, or late.


def test_one_lost_request_is_sent_again(bucket: ObjectCase) -> None:
    assert lost_once(bucket, "before") > 8


def test_lost_answer_is_read_back(bucket: ObjectCase) -> None:
    assert lost_once(bucket, "after") > 8


def lost_once(bucket: ObjectCase, when: Any) -> int:
    """Lose each write of a transaction once; none of that may be its end."""
    lost = 0
    for at in itertools.count(1):
        bucket.reset(CUBE)
        faults = Faults(at, fail(Unclear("no answer")), when=when)
        raised = run(bucket, everything, faults)
        if not faults.fired:
            print(f"{lost} writes lost")
            return lost
        if faults.calls[at - 1].name in ("put", "delete"):
            assert raised is None, (faults.calls[at - 1], raised)
            assert bucket.cube()["a/2.0"] == b"new row"
            assert "b/0" not in bucket.cube()
            assert nothing_is_left(bucket)
            lost += 1
    raise AssertionError("unreachable")


def everything(txn: Transaction) -> None:
    grow(txn)
    txn["a/0.0"] = b"in place"
    del txn["b/0"]


@pytest.mark.attack(3)
def test_log_object_without_an_answer_is_waited_out(bucket: ObjectCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it came after the end, when there is no lock, it would look like a log that may matter."""
    monkeypatch.setattr("zappend.txn.objectplace.INLINE", 0)
    begun = bucket.clock.now()
    late = Late(lambda call: call.name == "put" and call.path.startswith("undo-"))
    assert run(bucket, lambda txn: txn.update({"a/0.0": b"in place"}), late) is None
    assert bucket.clock.now() - begun >= 90
    assert bucket.cube() == {**CUBE, "a/0.0": b"in place"}
    assert nothing_is_left(bucket)


@pytest.mark.attack(7)
@pytest.mark.parametrize("key", ["a/0.0", "a/2.0", "a/.zarray", ".zmetadata"])
def test_late_write_of_a_dead_writer(bucket: ObjectCase, key: str) -> None:
    late = Late(puts(key), kills=True)
    assert isinstance(run(bucket, everything, late), Killed)
    bucket.bury()
    rollback(bucket.target())
    with bucket.begin() as txn:
        txn[key] = b"successor"
    expected = bucket.state()
    late.arrive()
    assert bucket.state() == expected


@pytest.mark.attack(8, 9)
def test_late_deletion_of_an_undo(bucket: ObjectCase) -> None:
    late = Late(lambda call: call == Call("delete", "a/2.0"))
    txn = bucket.begin(late).__enter__()
    grow(txn)
    begun = bucket.clock.now()
    txn.rollback()
    # The same slice may be appended now, with the same bytes and so the same tag: nothing may be on its way any more.
    assert bucket.clock.now() - begun >= QUIET
    assert bucket.cube() == CUBE
    with bucket.begin() as successor:
        successor["a/2.0"] = b"another row"
    late.arrive()
    assert bucket.cube() == {**CUBE, "a/2.0": b"another row"}


@pytest.mark.attack(10)
def test_late_write_before_an_undo(bucket: ObjectCase) -> None:
    """The undo restores the very bytes for which the late write waits."""
    late = Late(puts("a/0.0"))
    txn = bucket.begin(late).__enter__()
    begun = bucket.clock.now()
    txn["a/0.0"] = b"in place"
    txn.rollback()
    assert late.kept
    assert bucket.clock.now() - begun >= QUIET
    assert bucket.cube() == CUBE


@pytest.mark.attack(7, 9)
@pytest.mark.parametrize("key", ["a/0.0", "a/.zarray", ".zmetadata"])
def test_late_write_of_a_commit(bucket: ObjectCase, key: str) -> None:
    """A later writer may restore the very bytes for which it waits."""
    late = Late(puts(key))
    begun = bucket.clock.now()
    assert run(bucket, everything, late) is None
    assert bucket.clock.now() - begun >= QUIET
    expected = bucket.cube()
    assert expected[key] != CUBE[key]
    late.arrive()
    assert bucket.cube() == expected


@pytest.mark.attack(14)
@pytest.mark.parametrize("lost", [1, 6, 1000])
@pytest.mark.parametrize("arrives", ["before recovery", "after recovery"])
def test_commit_arrives_after_it_was_given_up(bucket: ObjectCase, lost: int, arrives: str) -> None:
    late = Late(puts("lock"), times=lost)
    late.active = False
    txn = bucket.begin(late).__enter__()
    grow(txn)
    late.active = True
    raised: BaseException | None = None
    try:
        txn.commit()
    except (OSError, CommitStateUnknown) as error:
        raised = error
    assert {1: type(None), 6: Unclear, 1000: CommitStateUnknown}[lost] is type(raised)
    bucket.bury()
    if arrives == "before recovery":
        late.arrive()
    outcome = rollback(bucket.target()).outcome
    if arrives == "after recovery":
        late.arrive()
        rollback(bucket.target())
    committed = bucket.cube()[".zmetadata"] == b"longer"
    assert committed or bucket.cube() == CUBE
    assert committed == (lost == 1 or (lost == 1000 and arrives == "before recovery"))
    assert outcome == {1: "clean", 6: "clean", 1000: "completed" if committed else "rolled back"}[lost]
    assert nothing_is_left(bucket)


# S3 itself.


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def server(running: S3Server) -> S3Server:
    running.reset()
    return running


def by_s3fs(server: S3Server, bucket: str = BUCKET) -> S3Objects:
    once = {"retries": {"total_max_attempts": 1}}
    fs = fsspec.filesystem("s3", **server.storage_options(), config_kwargs=once)
    fs.retries = 1  # those of reading, which would take their time
    return S3Objects(fs, f"{bucket}/c.zarr")


def by_obstore(server: S3Server) -> ObstoreObjects:
    store = S3Store(
        BUCKET,
        endpoint=server.url,
        region=REGION,
        access_key_id="key",
        secret_access_key="secret",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    return ObstoreObjects(store, "c.zarr")


@pytest.fixture(params=[by_s3fs, by_obstore], ids=lambda make: make.__name__)
def objects(request: pytest.FixtureRequest, server: S3Server) -> Objects:
    made: Objects = request.param(server)
    return made


@pytest.mark.attack(4, 7)
def test_s3_keeps_conditions(server: S3Server, objects: Objects) -> None:
    first = objects.put("a", b"1", None)
    with pytest.raises(Conflict):
        objects.put("a", b"2", None)
    second = objects.put("a", b"2", first)
    for stale in (first, "nonsense"):
        with pytest.raises(Conflict):
            objects.put("a", b"3", stale)
    with pytest.raises(Conflict):
        objects.put("b", b"3", first)
    assert objects.get("a") == (b"2", second)
    assert server.objects() == {"c.zarr/a": b"2"}


@pytest.mark.attack(14)
@pytest.mark.parametrize(
    "fault", [INTERNAL_ERROR, error_after(), DROP_REQUEST, DROP_ANSWER], ids=lambda fault: fault.name.replace(" ", "-")
)
def test_s3_tells_the_fate_of_a_write(server: S3Server, objects: Objects, fault: Any) -> None:
    server.set_policy(every(lambda request: request.op == "PUT", fault))
    with pytest.raises(Unclear) as caught:
        objects.put("a", b"1", None)
    assert caught.type is Unclear, "it may have taken effect"
    assert len(server.fired) == 1, "sent once"
    assert bool(server.objects()) == fault.performs


def test_s3_error_is_not_absence(server: S3Server, objects: Objects) -> None:
    tag = objects.put("a", b"1", None)
    for fault in (ACCESS_DENIED, INTERNAL_ERROR):
        server.set_policy(every(lambda request: request.op in ("GET", "HEAD"), fault))
        for look in (objects.get, objects.head):
            with pytest.raises(OSError, match=r"c\.zarr/a"):
                look("a")
        assert {request.op for request in server.fired} == {"GET", "HEAD"}
    server.set_policy(None)
    assert objects.get("a") == (b"1", tag)
    assert objects.get("b") is None
    assert objects.head("b") is None


def test_s3_bucket_that_is_missing(server: S3Server) -> None:
    with pytest.raises(TargetError, match="no such bucket"):
        by_s3fs(server, "no-bucket").get("a")


# Locks and temporary files in folders.


@pytest.mark.attack(27)
def test_pid_of_the_holder_proves_nothing(folder: FolderCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zappend.txn.lock.PATIENCE", 0.01)
    folder.reset(CUBE)
    folder.place.mkdir()
    # A pid that is alive, but the lock is free.
    (folder.place / "lock").write_text(json.dumps({**this_process(), "pid_namespace": "another"}))
    assert run(folder, lambda txn: txn.update({"z/0": b"1"})) is None
    with folder.begin() as txn:
        # A pid that is not alive, but the lock is held.
        (folder.place / "lock").write_text(json.dumps({**this_process(), "pid": 2**22 + 1}))
        with pytest.raises(Locked, match=str(2**22 + 1)):
            folder.begin().__enter__()
        txn["z/1"] = b"1"
    assert folder.cube() == {**CUBE, "z/0": b"1", "z/1": b"1"}


@pytest.mark.attack(29)
def test_lock_is_held_until_its_file_is_gone(folder: FolderCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zappend.txn.lock.PATIENCE", 0.01)
    folder.reset(CUBE)

    def other_comes() -> None:
        with pytest.raises(Locked):
            folder.begin().__enter__()

    faults = Before(lambda call: call == Call("unlink", f"{folder.place}/lock"), other_comes)
    with folder.begin(faults) as txn:
        txn["z/0"] = b"1"
    assert faults.fired
    assert not folder.place.exists()


@pytest.mark.attack(30)
def test_folder_of_the_lock_vanishes(folder: FolderCase) -> None:
    folder.reset(CUBE)
    faults = Faults(1, lambda: os.rmdir(folder.place), when="after")
    assert run(folder, lambda txn: txn.update({"z/0": b"1"}), faults) is None
    assert [call.name for call in faults.calls[:4]] == ["mkdir", "open", "mkdir", "open"]
    assert folder.cube() == {**CUBE, "z/0": b"1"}
    assert not folder.place.exists()


@pytest.mark.attack(31)
def test_lock_that_is_held_for_a_moment(folder: FolderCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zappend.txn.lock.PATIENCE", 60)
    folder.reset(CUBE)
    holder = folder.begin().__enter__()
    # The descriptor is closed when its lock has been seen held.
    faults = Before(lambda call: call.name == "close", holder.commit)
    with folder.begin(faults) as txn:
        assert faults.fired
        txn["z/0"] = b"1"
    assert folder.cube() == {**CUBE, "z/0": b"1"}


@pytest.mark.attack(49)
def test_torn_temporary_file_that_is_longer(folder: FolderCase) -> None:
    """What undo writes under the same temporary name is shorter than what is there."""
    folder.reset(CUBE)
    old = folder.state()
    torn = 0
    for at in itertools.count(1):
        folder.reset(CUBE)
        faults = Faults(at, when="torn", lasting=True)
        if run(folder, lambda txn: txn.update({"a/0.0": b"long" * 100}), faults) is None:
            break
        folder.bury()
        torn += any(path.stat().st_size > 100 for path in (folder.path / "a").glob(".zappend-*"))
        rollback(folder.target())
        assert folder.state() in (old, {**old, "cube.zarr/a/0.0": b"long" * 100})
    assert torn >= 1


def test_key_that_cannot_be_read_is_not_absent(folder: FolderCase) -> None:
    folder.reset(CUBE)
    chunk = folder.path / "a" / "0.0"
    chunk.unlink()
    chunk.symlink_to(chunk.name)

    def work(txn: Transaction) -> None:
        txn["a/0.0"] = b"new"

    raised = run(folder, work)
    assert isinstance(raised, OSError)
    assert raised.errno == errno.ELOOP
    assert chunk.is_symlink()


def test_file_that_cannot_be_read_is_not_absent(home: Path) -> None:
    (home / "loop").symlink_to("loop")
    mapping = FileSystemMapping(fsspec.filesystem("file"), str(home))
    with pytest.raises(OSError, match="symbolic links"):
        mapping["loop"]
    assert mapping.get("nothing") is None


# Threads.


class Group(Faults):
    """Holds each write of the log until it is let through, and notes which keys were written meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.passed = threading.Semaphore(0), threading.Event()
        self.open = threading.Semaphore(0)
        self.active = True

    def call(self, call: Call, do: Any, half: Any = None) -> Any:
        if self.active:
            if call.path.startswith(".zappend/"):
                self.reached.release()
                assert self.open.acquire(timeout=60)
            else:
                self.passed.set()
        return super().call(call, do, half)

    def end(self) -> None:
        self.active = False
        self.open.release(1000)


@pytest.mark.attack(41)
def test_key_waits_for_the_group_of_another_thread() -> None:
    group = Group()
    old = {f"a/{n}": b"old" for n in range(3)}
    data = dict(old)
    with transaction(FaultyMapping(data, group)) as txn:
        writers = [threading.Thread(target=txn.__setitem__, args=(key, b"new")) for key in old]
        try:
            writers[0].start()
            assert group.reached.acquire(timeout=60)
            for writer in writers[1:]:
                writer.start()
            while len(txn._waiting) < 2:
                assert all(writer.is_alive() for writer in writers)
            # The group of the first one ends; the second one, or the third, logs its own key and that of the other.
            group.open.release()
            assert group.reached.acquire(timeout=60)
            writers[0].join(60)
            group.passed.clear()
            assert not group.passed.wait(0.3)
            assert [data[key] for key in old] == [b"new", b"old", b"old"]
        finally:
            group.end()
            for writer in writers:
                writer.join(60)
        txn.rollback()
    assert data == old


@pytest.mark.attack(42)
def test_commit_takes_no_new_work() -> None:
    """While the commit waits for the write of one thread, another one is refused, and there is no decision."""
    group = Group()
    data: dict[str, bytes] = {}
    refused: list[BaseException] = []
    txn = transaction(FaultyMapping(data, group)).__enter__()
    writer = threading.Thread(target=txn.__setitem__, args=("a/0", b"0"))
    commit = threading.Thread(target=txn.commit)

    def write_more() -> None:
        try:
            txn["zarr.json"] = b"1"
        except TransactionClosed as error:
            refused.append(error)

    more = threading.Thread(target=write_more)
    try:
        writer.start()
        assert group.reached.acquire(timeout=60)
        commit.start()
        for _ in range(1000):
            if txn._closed is not None:
                break
            commit.join(0.01)
        assert commit.is_alive()
        more.start()
        more.join(60)
        assert [str(error) for error in refused if "takes no further work" in str(error)]
        assert not group.reached.acquire(timeout=0.2), "nothing of the commit reached the store"
    finally:
        group.end()
        for thread in (writer, commit, more):
            thread.join(60)
    assert txn.status == "committed"
    assert data == {"a/0": b"0"}


# Documents.


@pytest.mark.attack(24)
def test_document_edited_while_documents_are_written(place: Case) -> None:
    place.reset(CUBE)

    def edit() -> None:
        if isinstance(place, FolderCase):
            (place.path / ".zmetadata").write_bytes(b"edited")
        else:
            place.data[".zmetadata"] = b"edited"

    faults = Before(lambda call: call.name in ("rename", "set") and call.path.endswith("a/.zarray"), edit)
    raised = run(place, grow, faults)
    assert faults.fired
    assert isinstance(raised, CommitStateUnknown)
    assert isinstance(raised.__cause__, TargetChanged)
    assert place.cube()[".zmetadata"] == b"edited"
    place.bury()
    with pytest.raises(TargetChanged):
        rollback(place.target())
    assert place.cube()[".zmetadata"] == b"edited"


@pytest.mark.attack(34, 37)
def test_root_is_durable_last(folder: FolderCase) -> None:
    """The documents below are durable when the root is written, and that is when anything is deleted."""
    folder.reset(CUBE)
    faults = Faults()
    assert run(folder, everything, faults) is None
    names = [(call.name, os.path.relpath(call.path, folder.path)) for call in faults.calls]
    array = names.index(("rename", "a/.zarray"))
    root = names.index(("rename", ".zmetadata"))
    deleted = names.index(("unlink", "b/0"))
    assert ("fsync", "a") in names[array:root]
    assert ("fsync", ".") in names[root:deleted]


@pytest.mark.attack(39)
def test_documents_of_both_formats(place: Case) -> None:
    cube: dict[str, bytes] = {}
    zappend.append(cube, days(0), zarr_format=2)
    place.reset({**cube, "zarr.json": b'{"zarr_format": 3, "node_type": "group"}'})
    before = place.state()
    with pytest.raises(TargetError, match="both"):
        zappend.append(place.target(), days(2))
    assert place.state() == before


@pytest.mark.attack(32)
@pytest.mark.parametrize("zarr_format", FORMATS)
def test_files_of_others_where_a_cube_is_to_be(place: Case, zarr_format: int) -> None:
    """A key that the new cube would write, and that undo would delete."""
    cube: dict[str, bytes] = {}
    zappend.append(cube, days(0), zarr_format=zarr_format)
    chunk = next(key for key in cube if key.startswith("sst/") and not is_document(key))
    place.reset({chunk: b"of others"})
    before = place.state()
    with pytest.raises(TargetError, match="not empty"):
        zappend.append(place.target(), days(0), zarr_format=zarr_format)
    assert place.state() == before


@pytest.mark.attack(47)
def test_failure_to_clean_up_is_no_failure(place: Case, caplog: pytest.LogCaptureFixture) -> None:
    place.reset(CUBE)

    def break_down() -> None:
        raise OSError(errno.EIO, "Input/output error")

    faults = Before(lambda call: call.name in ("unlink", "delete") and call.path.endswith("/undo"), break_down)
    assert run(place, grow, faults) is None
    assert faults.fired
    assert "its log could not be removed" in caplog.text
    place.bury()
    assert run(place, lambda txn: txn.update({"a/3.0": b"next"})) is None
    assert place.cube() == {
        **CUBE,
        "a/2.0": b"new row",
        "a/3.0": b"next",
        "a/.zarray": b"longer",
        ".zmetadata": b"longer",
    }


@pytest.mark.attack(38)
def test_group_is_renamed(place: Case) -> None:
    def rename(txn: Transaction) -> None:
        for key in [key for key in txn if key.startswith("a/")]:
            txn[f"g/{key}"] = txn[key]
        txn.delete_folder("a/")
        txn[".zmetadata"] = b"renamed"

    moved = {f"g/{key}" if key.startswith("a/") else key: value for key, value in CUBE.items()}
    check_kills(place, CUBE, rename, {**moved, ".zmetadata": b"renamed"})


def check_kills(case: Case, cube: dict[str, bytes], work: Callable[[Transaction], None], expected: Any = None) -> None:
    """Kill `work` on `cube` at every operation: it is the old cube or the new one."""
    case.reset(cube)
    old = case.state()
    assert run(case, work) is None
    assert expected is None or case.cube() == expected
    new = case.state()
    ends = set()
    for at in itertools.count(1):
        case.reset(cube)
        faults = Faults(at, lasting=True)
        raised = run(case, work, faults)
        if not faults.fired:
            break
        assert isinstance(raised, Killed), raised
        case.bury()
        ends.add(rollback(case.target()).outcome)
        assert case.state() in (old, new), at
    assert ends >= {"rolled back", "completed"}
    print(f"{at - 1} kills")


# Zarr.


def zarr_array(case: Case, name: str, zarr_format: Any) -> np.ndarray[Any, Any]:
    store = zarr.storage.MemoryStore({key: cpu.Buffer.from_bytes(value) for key, value in case.cube().items()})
    return np.asarray(zarr.open_array(store, path=name, zarr_format=zarr_format)[...])


@pytest.mark.attack(36)
@pytest.mark.parametrize("zarr_format", FORMATS)
def test_array_shrinks_and_grows(zarr_format: Any) -> None:
    def shrink_and_grow(store: Any) -> None:
        array = zarr.open_array(store, path="a", zarr_format=zarr_format)
        array.resize((2,))
        array.resize((8,))
        array[4:6] = 7

    case, plain = DictCase(), zarr.storage.MemoryStore()
    with case.begin() as txn:
        for store in (txn.store, plain):
            zarr.create_array(store, name="a", data=np.arange(1, 9), chunks=(2,), zarr_format=zarr_format, fill_value=0)
    shrink_and_grow(plain)
    cube = case.cube()
    check_kills(case, cube, lambda txn: shrink_and_grow(txn.store))
    assert zarr_array(case, "a", zarr_format).tolist() == [1, 2, 0, 0, 7, 7, 0, 0]
    assert case.cube() == {key: value.to_bytes() for key, value in plain._store_dict.items()}
    case.reset(cube)
    with case.begin() as txn:
        shrink_and_grow(txn.store)
        assert zarr_array(case, "a", zarr_format).tolist() == list(range(1, 9)), "readers see nothing of it yet"


def sharded() -> xr.Dataset:
    return xr.Dataset({"a": ("time", np.arange(8))}, {"time": np.arange(8)})


SHARDS: dict[str, Any] = {"a": {"chunks": (2,), "shards": (4,)}}


@pytest.mark.attack(22)
def test_shards_are_safe(place: Case) -> None:
    def write(txn: Transaction) -> None:
        sharded().to_zarr(txn.store, mode="w", zarr_format=3, encoding=SHARDS)

    def replace(txn: Transaction) -> None:
        sharded().isel(time=slice(3, None)).to_zarr(txn.store, mode="w", zarr_format=3, encoding=SHARDS)

    with place.begin() as txn:
        write(txn)
    check_shards(place, place.cube(), replace)


def check_shards(case: Case, cube: dict[str, bytes], work: Callable[[Transaction], None]) -> None:
    """Kill `work` at some operations: readers of what recovery leaves find all of the old values or all of the new."""
    step = 1 if isinstance(case, DictCase) else 7
    ends = set()
    for at in itertools.count(2, step):
        case.reset(cube)
        faults = Faults(at, lasting=True)
        raised = run(case, work, faults)
        if not faults.fired:
            break
        assert isinstance(raised, Killed), raised
        case.bury()
        ends.add(rollback(case.target()).outcome)
        values = zarr_array(case, "a", 3).tolist()
        assert values in (list(range(8)), list(range(3, 8)))
        assert (values == list(range(8))) == (case.cube() == cube)
    assert ends >= {"rolled back", "completed"}
    assert zarr_array(case, "a", 3).tolist() == list(range(3, 8))


@pytest.mark.attack(40)
@pytest.mark.parametrize("zarr_format", FORMATS)
def test_lengths_differ_only_while_documents_are_written(place: Case, zarr_format: Any) -> None:
    """Without consolidated metadata that cannot be avoided; but no value is ever wrong, and no length but two."""
    cube: dict[str, bytes] = {}
    with transaction(cube) as txn:
        days(0).to_zarr(txn.store, consolidated=False, zarr_format=zarr_format)
    names = sorted({key.split("/")[0] for key in cube if "/" in key})
    place.reset(cube)
    old = {name: zarr_array(place, name, zarr_format) for name in names}
    calls = Faults()
    zappend.append(place.target(calls), days(2), threads=1)
    new = {name: zarr_array(place, name, zarr_format) for name in names}
    documents = [n for n, call in enumerate(calls.calls) if call.name in ("rename", "set") and is_document(call.path)]
    grown = [name for name in names if old[name].shape != new[name].shape]
    assert len(grown) >= 3
    wrong: list[str] = []
    mixed = 0

    def look() -> None:
        # What is raised here would be taken for a failure of the store.
        nonlocal mixed
        now = {name: zarr_array(place, name, zarr_format) for name in names}
        wrong.extend(name for name in names if not is_one_of(now[name], old[name], new[name]))
        if len({now[name].shape == new[name].shape for name in grown}) == 2:
            mixed += 1
            if not documents[0] < len(faults.calls) - 1 <= documents[-1]:
                wrong.append("lengths differ at another time")

    place.reset(cube)
    faults = Faults(1, look, lasting=True)
    zappend.append(place.target(faults), days(2), threads=1)
    assert len(faults.calls) == len(calls.calls)
    assert wrong == []
    assert mixed >= 1
    print(f"{len(faults.calls)} looks, {mixed} times of different length")


def is_one_of(values: np.ndarray[Any, Any], *others: np.ndarray[Any, Any]) -> bool:
    return any(np.array_equal(values, other) for other in others)


@pytest.mark.attack(48)
@pytest.mark.parametrize("zarr_format", FORMATS)
def test_labels_that_another_writer_changed_in_place(folder: FolderCase, zarr_format: Any) -> None:
    target = LocalStorage(folder.path, durability="process")
    zappend.append(target, days(0), zarr_format=zarr_format)
    documents = {key: value for key, value in folder.cube().items() if is_document(key)}
    zarr.open_array(folder.path, path="time", zarr_format=zarr_format)[...] = [10, 11]
    assert {key: value for key, value in folder.cube().items() if is_document(key)} == documents
    with pytest.raises(SliceError):
        zappend.append(target, days(2))
    zappend.append(target, days(12))
    with xr.open_zarr(folder.path, decode_times=False) as cube:
        assert cube.time.values.tolist() == [10, 11, 12, 13]
