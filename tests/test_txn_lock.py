"""One writer at a time: between threads, transactions and processes; and a dead one keeps nobody out."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CUBE, Case, FolderCase, run

from zappend.errors import Locked, TargetError, TransactionClosed
from zappend.testing import Faults, fail
from zappend.txn import rollback, transaction
from zappend.txn.local import LocalStorage

pytestmark = pytest.mark.usefixtures("forks")


class Child:
    """A forked process that does `work` with two pipes: it says what it has to say, and waits for a word."""

    def __init__(self, work: Callable[[Callable[[str], None], Callable[[], str]], None]) -> None:
        here, there = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                here.close()
                work(lambda text: there.sendall(text.encode() + b"\n"), there.makefile().readline)
                code = 0
            finally:
                os._exit(code)
        there.close()
        here.settimeout(60)
        self._socket, self._lines = here, here.makefile()

    def hears(self) -> str:
        return self._lines.readline().strip()

    def tell(self, text: str = "go") -> None:
        self._socket.sendall(text.encode() + b"\n")

    def ends(self) -> int:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._lines.close()
        self._socket.close()
        return code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.ends() == -signal.SIGKILL


@pytest.fixture
def holder(folder: FolderCase) -> Iterator[Child]:
    """Another process in the middle of a transaction."""
    folder.reset(CUBE)

    def work(say: Any, hear: Any) -> None:
        with transaction(folder.path) as txn:
            txn["a/0.0"] = b"half-way"
            say("holds")
            hear()

    child = Child(work)
    assert child.hears() == "holds"
    yield child
    if child.pid and not child._socket._closed:  # type: ignore[attr-defined]
        child.kill()


def test_other_process_is_told_who_holds_the_lock(folder: FolderCase, holder: Child) -> None:
    before = folder.state()
    for use in (lambda: transaction(folder.path).__enter__(), lambda: rollback(folder.path)):
        with pytest.raises(
            Locked, match=f"pid {holder.pid} of .* on host {socket.gethostname()}.*--lock-timeout"
        ) as caught:
            use()
        assert caught.value.holder["pid"] == holder.pid
        assert caught.value.holder["host"] == socket.gethostname()
    with pytest.raises(Locked):
        rollback(folder.path, break_lock=True)
    assert folder.state() == before
    holder.tell()
    assert holder.ends() == 0
    assert folder.cube() == {**CUBE, "a/0.0": b"half-way"}


def test_lock_file_is_for_people(folder: FolderCase, holder: Child) -> None:
    text = json.loads((folder.place / "lock").read_text())
    assert text["pid"] == holder.pid
    assert {"user", "host", "started"} <= text.keys()


def test_waiting_for_the_lock(folder: FolderCase, holder: Child) -> None:
    def wait(say: Any, hear: Any) -> None:
        txn = transaction(folder.path, lock_timeout=60)
        say("waits")
        with txn:
            say(txn["a/0.0"].decode())

    waiting = Child(wait)
    assert waiting.hears() == "waits"
    holder.tell()
    assert waiting.hears() == "half-way"
    assert (holder.ends(), waiting.ends()) == (0, 0)


def test_lock_is_free_when_its_holder_is_killed(folder: FolderCase, holder: Child) -> None:
    holder.kill()
    assert (folder.place / "lock").exists()
    with transaction(folder.path) as txn:
        assert txn["a/0.0"] == CUBE["a/0.0"]
    assert folder.cube() == CUBE
    assert not folder.place.exists()


@pytest.mark.attack(28)
def test_all_spellings_share_one_lock(folder: FolderCase, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.reset(CUBE)
    (folder.home / "link").symlink_to(folder.path)
    (folder.home / "home").symlink_to(folder.home)
    monkeypatch.chdir(folder.path)
    monkeypatch.setattr("zappend.txn.lock.PATIENCE", 0.01)
    spellings: list[Any] = [
        str(folder.path),
        folder.path,
        f"{folder.path}/",
        "../cube.zarr",
        ".",
        f"file://{folder.path}",
        f"file://{folder.path}/",
        f"{folder.home}/./a/../cube.zarr",
        folder.home / "link",
        f"{folder.home}/link/",
        folder.home / "home" / "link",
    ]
    for one in spellings:
        with transaction(one) as txn:
            for other in spellings:
                with pytest.raises(Locked), transaction(other):
                    pass
            txn["a/0.0"] = CUBE["a/0.0"]
        assert sorted(os.listdir(folder.home)) == ["cube.zarr", "home", "link"]


def test_nested_transactions_are_refused(place: Case) -> None:
    place.reset(CUBE)
    target: Any = place.path if isinstance(place, FolderCase) else place.data
    with transaction(target) as txn:
        txn["a/0.0"] = b"new"
        inner = transaction(target)
        with pytest.raises(Locked):
            inner.__enter__()
        with pytest.raises(Locked):
            rollback(target)
        assert txn["a/0.0"] == b"new"
    # One that could not begin may try again.
    with inner:
        inner["a/1.0"] = b"new"
    assert place.cube() == {**CUBE, "a/0.0": b"new", "a/1.0": b"new"}


def test_waiting_in_a_thread(place: Case) -> None:
    target: Any = place.path if isinstance(place, FolderCase) else place.data
    waiting = transaction(target, lock_timeout=60)
    seen: list[dict[str, bytes]] = []

    def wait() -> None:
        with waiting:
            seen.append(dict(waiting))

    with transaction(target) as txn:
        thread = threading.Thread(target=wait)
        thread.start()
        txn["a/0"] = b"first"
        txn["zarr.json"] = b"first"
    thread.join(60)
    assert seen == [{"a/0": b"first", "zarr.json": b"first"}]
    assert place.cube() == seen[0]


ROUNDS = 40


@pytest.mark.attack(29, 30)
def test_a_counter_under_the_lock_is_exact(folder: FolderCase) -> None:
    def work(say: Any, hear: Any) -> None:
        hear()
        for _ in range(ROUNDS):
            with transaction(folder.path, durability="process", lock_timeout=60) as txn:
                count = int(txn.get("count/0", b"0"))
                txn["count/0"] = b"%d" % (count + 1)

    children = [Child(work) for _ in range(4)]
    for child in children:
        child.tell()
    assert [child.ends() for child in children] == [0, 0, 0, 0]
    assert folder.state() == {"cube.zarr": None, "cube.zarr/count": None, "cube.zarr/count/0": b"%d" % (4 * ROUNDS)}


@pytest.mark.campaign
def test_a_counter_under_the_lock_is_exact_campaign(folder: FolderCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_txn_lock.ROUNDS", 3000)
    test_a_counter_under_the_lock_is_exact(folder)


@pytest.mark.attack(25)
@pytest.mark.parametrize("end", ["leave the block", "raise in the block", "use it"])
def test_forked_child_leaves_the_transaction_alone(place: Case, end: str) -> None:
    place.reset(CUBE)
    with place.begin() as txn:
        txn["a/0.0"] = b"new"
        before = place.state()

        def work(say: Any, hear: Any) -> None:
            if end == "leave the block":
                txn.__exit__(None, None, None)
            elif end == "raise in the block":
                txn.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
            else:
                uses: list[Callable[[], Any]] = [txn.commit, txn.rollback, txn.clear, lambda: txn.update(b=b"")]
                for use in uses:
                    with pytest.raises(TransactionClosed, match="belongs to process"):
                        use()

        child = Child(work)
        assert child.ends() == 0
        assert place.state() == before
        if isinstance(place, FolderCase):
            with pytest.raises(Locked):
                rollback(place.path)
        txn["a/1.0"] = b"new"
    assert place.cube() == {**CUBE, "a/0.0": b"new", "a/1.0": b"new"}


@pytest.mark.attack(25)
def test_lock_deleted_by_hand_stops_the_commit(folder: FolderCase) -> None:
    folder.reset(CUBE)
    old = folder.state()

    def work(txn: Any) -> None:
        txn["a/0.0"] = b"new"
        (folder.place / "lock").unlink()

    assert isinstance(run(folder, work), TargetError)
    assert folder.state() == old


@pytest.mark.attack(25)
def test_place_taken_over_by_another_transaction_is_not_undone(folder: FolderCase) -> None:
    """Someone deletes the place of a live writer; another one begins there, and must not be harmed by the first."""
    folder.reset(CUBE)
    first = folder.begin()
    first.__enter__()
    first["a/0.0"] = b"first"
    shutil.rmtree(folder.place)
    second = folder.begin()
    second.__enter__()
    second["a/1.0"] = b"second"
    with pytest.raises(TargetError, match="removed by others"):
        first.commit()
    assert (folder.place / "undo").exists()
    second["a/.zarray"] = b"second"
    second.commit()
    assert folder.cube() == {**CUBE, "a/0.0": b"first", "a/1.0": b"second", "a/.zarray": b"second"}


@pytest.mark.parametrize("at", range(1, 8))
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failing_to_lock_leaves_nothing(folder: FolderCase, at: int, error: BaseException) -> None:
    faults = Faults(at, fail(error))
    raised = run(folder, lambda txn: None, faults)
    assert faults.fired
    if isinstance(raised, OSError) and faults.calls[at - 1].name in ("mkdir", "open", "truncate", "write"):
        assert folder.state() == {}
    rollback(folder.target())
    assert folder.state() == {}


@pytest.mark.attack(26)
def test_lock_of_another_host_on_a_network_is_broken_by_a_person_only(
    folder: FolderCase, holder: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder.kill()
    lock = folder.place / "lock"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "boot": "another", "host": "elsewhere"}))
    monkeypatch.setattr("zappend.txn.lock._is_network", lambda path: True)
    before = folder.state()
    with pytest.raises(Locked, match=r"elsewhere.*cannot be proved.*--break-lock"):
        rollback(folder.path)
    assert folder.state() == before
    assert rollback(folder.path, break_lock=True).outcome == "rolled back"
    assert folder.cube() == CUBE


def test_lock_without_readable_text(folder: FolderCase) -> None:
    folder.reset(CUBE)
    old = folder.state()
    for text in (b"", b"\xff", b"[]", b"{", b"{}", b'{"started": 3}'):
        folder.place.mkdir()
        (folder.place / "lock").write_bytes(text)
        with folder.begin():
            pass
        assert folder.state() == old


@pytest.mark.attack(29)
def test_lock_of_a_file_that_was_removed_meanwhile_is_none(folder: FolderCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its opening of the file and its lock, the holder goes, and with it the file; and a third one comes."""
    monkeypatch.setattr("zappend.txn.lock.PATIENCE", 0.01)
    holder, third = folder.begin(), folder.begin()
    holder.__enter__()

    def exchange() -> None:
        holder.commit()
        third.__enter__()

    faults = Faults(2, exchange, when="after")
    contender = folder.begin(faults)
    with pytest.raises(Locked):
        contender.__enter__()
    assert [call.name for call in faults.calls[:2]] == ["mkdir", "open"]
    third["a/0"] = b"third"
    third.commit()
    assert folder.cube() == {"a/0": b"third"}


def test_place_of_a_user_with_other_rights(folder: FolderCase) -> None:
    folder.reset(CUBE)
    (folder.path / ".zappend").mkdir()
    before = folder.state()
    with pytest.raises(Locked, match="a user with other rights"):
        folder.begin().__enter__()
    assert folder.state() == before


def test_parent_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    txn = transaction(LocalStorage(tmp_path / "home" / "cube.zarr"))
    (tmp_path / "home").rmdir()
    with pytest.raises(TargetError, match="make it first"):
        txn.__enter__()
