"""The undo log as it lies there, and what others do to it and to the target meanwhile; see also the damaged logs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from conftest import CUBE, Case, DictCase, FolderCase, run, small_log_objects

from zappend.errors import LogDamaged, LogVersionError, RecoveryRefused, TargetChanged, TransactionError
from zappend.testing import Faults, Killed
from zappend.txn import Transaction, rollback
from zappend.txn.record import pack, unpack


def work(txn: Transaction) -> None:
    """Something of everything, in several objects."""
    txn["a/0.0"] = b"new"
    txn["a/5.0"] = b"new"
    txn["b/0"] = b"new"
    txn.delete_folder("a/")
    txn["a/1.0"] = b"staged" * 30
    txn["a/2.0"] = b"staged" * 30
    txn["a/.zarray"] = b"document"
    txn[".zmetadata"] = b"summary"


def wreck(case: Case, *, decided: bool) -> dict[str, bytes]:
    """Kill a transaction on `case` before or after its decision; return the objects of its log."""
    case.reset(CUBE)
    faults = Faults()
    assert run(case, work, faults) is None
    decisions = [n for n, c in enumerate(faults.calls, 1) if c.path.endswith("/decision") and c.name in ("set", "link")]
    case.reset(CUBE)
    assert isinstance(run(case, work, Faults(decisions[0] + decided, lasting=True)), Killed)
    case.bury()
    objects = log_of(case)
    assert ("decision" in objects) == decided
    assert sum(name.startswith("undo-") for name in objects) >= 2
    assert sum(name.startswith("redo-") for name in objects) >= 2
    return objects


def log_of(case: Case) -> dict[str, bytes]:
    if isinstance(case, DictCase):
        return {k.removeprefix(".zappend/"): v for k, v in case.data.items() if k.startswith(".zappend/")}
    skip = (".zappend-", "lock")
    return {p.name: p.read_bytes() for p in sorted(case.place.iterdir()) if not p.name.startswith(skip)}


def set_object(case: Case, name: str, data: bytes | None) -> None:
    if isinstance(case, DictCase):
        case.data.pop(f".zappend/{name}", None)
        if data is not None:
            case.data[f".zappend/{name}"] = data
    elif data is None:
        (case.place / name).unlink()
    else:
        (case.place / name).write_bytes(data)


def check_refused(case: Case, error: type[TransactionError], use: Callable[[], Any] | None = None) -> None:
    before = without_lock(case)
    with pytest.raises(error) as caught:
        (use or (lambda: rollback(case.target())))()
    assert caught.type is error
    assert without_lock(case) == before


def without_lock(case: Case) -> dict[str, bytes | None]:
    return {key: value for key, value in case.state().items() if not key.endswith(".zappend/lock")}


@pytest.fixture(autouse=True)
def _many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    small_log_objects(monkeypatch, 150)


@pytest.fixture(params=[False, True], ids=["undecided", "decided"])
def decided(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.attack(23, 44)
def test_wreck_is_settled(place: Case, decided: bool) -> None:
    wreck(place, decided=decided)
    assert rollback(place.target()).outcome == ("completed" if decided else "rolled back")
    assert (place.cube() == CUBE) != decided


def test_frame_is_as_documented() -> None:
    data = pack("undo-part", "t" * 32, records=[["a/0", b"0"], ["a/1", None]])
    assert data[:8] == b"\x8azapp\r\n\x1a"
    assert struct.unpack(">HHQ", data[8:20]) == (1, 0, len(data) - 20 - 32)
    assert msgpack.unpackb(data[20:-32])["records"] == [["a/0", b"0"], ["a/1", None]]
    assert unpack("x", data, "undo-part")["txn"] == "t" * 32
    with pytest.raises(LogDamaged, match="expected 'decision'"):
        unpack("x", data, "decision")


def set_key(case: Case, key: str, value: bytes | None) -> None:
    if isinstance(case, DictCase):
        case.data.pop(key, None)
        if value is not None:
            case.data[key] = value
    elif value is None:
        (case.path / key).unlink()
    else:
        (case.path / key).write_bytes(value)


@pytest.mark.parametrize("value", [b"edited by others", None])
@pytest.mark.parametrize("key", [".zgroup", ".zattrs", ".zmetadata"])
def test_root_changed_by_others(place: Case, decided: bool, key: str, value: bytes | None) -> None:
    wreck(place, decided=decided)
    set_key(place, key, value)
    check_refused(place, TargetChanged)
    check_refused(place, TargetChanged, lambda: place.begin().__enter__())
    check_refused(place, TargetChanged, lambda: rollback(place.target(), dry_run=True))
    set_key(place, key, CUBE[key])
    rollback(place.target())
    assert not any(".zappend" in key for key in place.state())


@pytest.mark.attack(24)
def test_document_changed_by_others_after_the_decision(place: Case) -> None:
    wreck(place, decided=True)
    set_key(place, "a/.zarray", b"edited by others")
    check_refused(place, TargetChanged)


def test_target_exchanged(folder: FolderCase, decided: bool) -> None:
    wreck(folder, decided=decided)
    folder.path.rename(folder.home / "old.zarr")
    check_refused(folder, TargetChanged)
    folder.path.mkdir()
    (folder.path / ".zgroup").write_bytes(b"another cube")
    check_refused(folder, TargetChanged)


def test_target_exchanged_where_no_document_was_to_change(folder: FolderCase) -> None:
    folder.reset(CUBE)

    def delete(txn: Transaction) -> None:
        del txn["a/0.0"]

    faults = Faults()
    run(folder, delete, faults)
    linked = [n for n, call in enumerate(faults.calls, 1) if call.name == "link"]
    folder.reset(CUBE)
    run(folder, delete, Faults(linked[0] + 1, lasting=True))
    folder.bury()
    (folder.path / ".zattrs").write_bytes(b"another cube")
    check_refused(folder, TargetChanged)


@pytest.mark.attack(24)
def test_document_changed_by_others_during_the_transaction(place: Case) -> None:
    place.reset(CUBE)

    def disturbed(txn: Transaction) -> None:
        work(txn)
        set_key(place, "a/.zarray", b"edited by others")

    error = run(place, disturbed)
    assert error is not None
    assert "changed by others" in str(error)
    assert place.cube() == {**CUBE, "a/.zarray": b"edited by others"}


def test_log_removed_by_others_during_the_transaction(place: Case) -> None:
    place.reset(CUBE)

    def disturbed(txn: Transaction) -> None:
        txn["a/0.0"] = b"new"
        set_object(place, "undo", None)
        txn.rollback()

    assert isinstance(run(place, disturbed), LogDamaged)


def test_refusals_are_one_kind() -> None:
    assert issubclass(LogDamaged, RecoveryRefused)
    assert issubclass(TargetChanged, RecoveryRefused)
    assert not issubclass(LogVersionError, RecoveryRefused)
