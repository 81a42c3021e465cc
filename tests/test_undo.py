"""Commits are taken back: what stays for that, what it gives back, and when it is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cubes
import pytest
import xarray as xr
from commands import run, run_process
from conftest import Case, DictCase, FolderCase, ObjectCase, Scenario, State, small_log_objects
from faultlab import small_chunks
from s3server import S3Server
from test_edits import Read, chunks
from test_s3_faults import S3Case
from test_undo_faults import cube_in, heads, settled

import zappend
from zappend.errors import LogDamaged, LogVersionError, TargetChanged, TargetError, UsageError
from zappend.testing import Faults
from zappend.txn import rollback, transaction
from zappend.txn.mappings import FileSystemMapping
from zappend.txn.memory import MappingStorage
from zappend.txn.undo import undo

formats = pytest.mark.parametrize("zarr_format", [2, 3])


def other(new: xr.Dataset) -> xr.Dataset:
    return new.assign(ok=~new.ok, note=new.note + "!", counts=(new.counts + 1).assign_attrs(new.counts.attrs))


STEPS: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "append": lambda target, how: zappend.append(target, cubes.small(8, 2), **how),
    "partial": lambda target, how: zappend.append(target, cubes.small(10, 3), slice_size="any", **how),
    "another partial": lambda target, how: zappend.append(target, cubes.small(13, 2), slice_size="any", **how),
    "attributes": lambda target, how: zappend.append(
        target, cubes.small(15, 2), slice_size="any", attrs={"a": 1}, **how
    ),
    "insert": lambda target, how: zappend.insert(target, cubes.small(2, 2), slice_size="any", **how),
    "replace": lambda target, how: zappend.replace(target, other(cubes.small(0, 2)), **how),
    "anew": lambda target, how: zappend.append(target, cubes.small(0, 8, name="b"), force_new=True, **how),
    "delete": lambda target, how: zappend.delete(target, index=[1, 2], **how),
    "cut": lambda target, how: zappend.delete(target, index="-2:", **how),
    "keep": lambda target, how: zappend.keep(target, 2, **how),
    "not consolidated": lambda target, how: zappend.append(
        target, cubes.small(30, 2, name="b"), slice_size="any", consolidated=False, **how
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(params=["dict", "folder", "objects", "s3"])
def anywhere(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A cube in a dict, in a folder, and in object stores."""
    small_chunks(monkeypatch)
    if request.param == "s3":
        case = S3Case(request.getfixturevalue("server"))
        case.reset(None)
        return case
    return {"dict": DictCase, "objects": ObjectCase}[request.param]() if request.param != "folder" else FolderCase(home)


# What it gives back.


@formats
@pytest.mark.parametrize("group", ["", "deep/cube"])
def test_each_commit_taken_back(anywhere: Case, zarr_format: int, group: str) -> None:
    """One after the other, and all at once, gives back what was there, folders too; old logs stay beside new ones."""
    how = {"zarr_format": zarr_format, "group": group, "keep_undo": 99}
    if group:
        with transaction(anywhere.target()) as txn:
            key, text = ("zarr.json", b'{"zarr_format":3,"node_type":"group"}'), (".zgroup", b'{"zarr_format":2}')
            txn.update([key if zarr_format == 3 else text])
    states = [settled(anywhere)]
    zappend.append(anywhere.target(), [cubes.small(0, 2)], **how)
    states.append(settled(anywhere))
    zappend.append(anywhere.target(), [cubes.small(4, 2), cubes.small(6, 2)], **how)
    states += [{}, settled(anywhere)]
    for step in STEPS.values():
        step(anywhere.target(), how)
        states.append(settled(anywhere))
    assert len(heads(states[-1])) == len(states) - 1
    zappend.undo(anywhere.target())
    assert settled(anywhere) == states[-2]
    list(STEPS.values())[-1](anywhere.target(), how)
    assert cube_in(settled(anywhere)) == cube_in(states[-1])
    for number, state in reversed(list(enumerate(states[5:-1], 5))):
        undone = zappend.undo(anywhere.target())
        assert settled(anywhere) == state
        assert (undone.commits, undone.left) == (1, number)
    before = settled(anywhere)
    told = zappend.undo(anywhere.target(), 5, dry_run=True)
    assert settled(anywhere) == before
    undone = zappend.undo(anywhere.target(), 5)
    assert (told.commits, told.written, told.removed) == (5, undone.written, undone.removed)
    assert settled(anywhere) == states[0]
    assert anywhere.state() == states[0], "the lock is left"


def test_each_work_of_a_transaction_taken_back(anywhere: Case, scenario: Scenario) -> None:
    anywhere.reset(scenario.old)
    old = settled(anywhere)
    with transaction(anywhere.target(), keep_undo=1) as txn:
        scenario.work(txn)
    assert cube_in(settled(anywhere)) != old
    undo(anywhere.target())
    assert settled(anywhere) == old


def test_documents_alone_and_nothing_at_all(place: Case) -> None:
    for keys in ({"zarr.json": b"g", "deep/er/zarr.json": b"array"}, {}):
        place.reset(None)
        with transaction(place.target(), keep_undo=1) as txn:
            txn.update(keys)
            txn.delete_folder("none/")
        assert zappend.undo(place.target()).left == 0
        assert place.state() == {}
        with pytest.raises(UsageError):
            zappend.undo(place.target())


@formats
def test_readers_see_nothing_of_what_is_kept(tmp_path: Path, zarr_format: int) -> None:
    target = tmp_path / "cube.zarr"
    slices = [cubes.small(start, 2) for start in (0, 2, 4)]
    zappend.append(target, slices, zarr_format=zarr_format, keep_undo=2)
    cubes.assert_cube(target, cubes.concatenated(slices))
    zappend.undo(target)
    cubes.assert_cube(target, cubes.concatenated(slices[:2]))
    with xr.open_zarr(target) as cube:
        assert cube.sizes["time"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"cube.zarr", "cube.zarr.zappend"}


def test_chunks_of_an_append_are_not_read(tmp_path: Path) -> None:
    target = tmp_path / "cube.zarr"
    zappend.append(target, [cubes.small(0, 2), cubes.small(2, 2)], keep_undo=1)
    storage = Read(target)
    zappend.undo(storage)
    assert {key.partition("/")[0] for key in chunks(storage.read)} <= {"time", "time_bnds", "age"}
    cubes.assert_cube(target, cubes.small(0, 2))


# What is kept.


@pytest.mark.effect("keep_undo")
def test_the_last_logs_are_kept(anywhere: Case) -> None:
    target = anywhere.target
    zappend.append(target(), [cubes.small(start, 2) for start in range(0, 8, 2)], keep_undo=2)
    assert [name.split("kept-")[1][:8] for name in heads(settled(anywhere))] == ["00000003", "00000004"]
    before = settled(anywhere)
    with pytest.raises(UsageError, match="the undo logs of 2 are there"):
        zappend.undo(target(), 3)
    assert settled(anywhere) == before
    # What changes nothing drops nothing.
    zappend.append(target(), cubes.small(6, 2), if_exists="skip")
    with transaction(target()) as txn:
        txn["a/0.0.0"] = b"never"
        txn.rollback()
    rollback(target())
    zappend.append(target(), cubes.small(8, 2), dry_run=True)
    zappend.delete(target(), index=0, dry_run=True)
    assert settled(anywhere) == before
    zappend.append(target(), cubes.small(8, 2), keep_undo=1)
    assert len(heads(settled(anywhere))) == 1
    zappend.append(target(), cubes.small(10, 2))
    assert anywhere.state() == cube_in(anywhere.state()), "something is left"
    with pytest.raises(UsageError, match="the undo logs of none are there"):
        zappend.undo(target())


def test_a_commit_that_changes_no_document_drops_logs_too(place: Case) -> None:
    place.reset({"zarr.json": b"g", "a/0": b"0"})
    with transaction(place.target(), keep_undo=5) as txn:
        txn["a/0"] = b"1"
    with transaction(place.target()) as txn:
        txn["a/0"] = b"2"
    with pytest.raises(UsageError):
        undo(place.target())
    assert place.cube() == {"zarr.json": b"g", "a/0": b"2"}


def test_mappings_with_their_log_beside_them(tmp_path: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    cube, log = FileSystemMapping(fs, "/undo/c.zarr"), FileSystemMapping(fs, "/undo/c.zarr.zappend")
    zappend.append(MappingStorage(cube, place=log), cubes.small(), keep_undo=1)
    assert len(log) == 1
    zappend.undo("memory://undo/c.zarr")
    assert (len(cube), len(log)) == (0, 0)


@pytest.mark.parametrize("wrong", [-1, "1"])
def test_wrong_numbers(wrong: Any) -> None:
    with pytest.raises(UsageError, match="keep_undo must be a number of commits"):
        transaction({}, keep_undo=wrong)
    with pytest.raises(UsageError, match="the commits to take back must be a number"):
        undo({}, wrong)


# Refused.


def kept(case: Case) -> State:
    case.reset({"zarr.json": b"g", "a/zarr.json": b"array", "a/0": b"0", "a/1": b"1"})
    for number in range(2):
        with transaction(case.target(), keep_undo=2) as txn:
            txn.log_ahead((), ["a/0"], by_reference=True)
            txn["a/0"] = b"new"
            del txn["a/1"]
            txn["a/1"] = b"staged"
            txn["a/zarr.json"] = b"array %d" % number
            txn["zarr.json"] = b"group %d" % number
    case.bury()
    return settled(case)


@pytest.mark.parametrize("key", ["zarr.json", "a/zarr.json"])
def test_a_document_that_others_changed(place: Case, key: str) -> None:
    kept(place)
    with_own_hands(place, key, b"by hand")
    before = place.state()
    for again in (lambda: undo(place.target()), lambda: undo(place.target(), 2, dry_run=True)):
        with pytest.raises(TargetChanged, match=f"'{key}' .* is not what the commit left") as raised:
            again()
        assert raised.value.exit_code == 4
        assert place.state() == before


def test_a_commit_before_that_left_something_else(place: Case) -> None:
    """The older log does not fit what the newer one goes back to, so nothing is done at all."""
    first = kept(place)
    other = {key: value for key, value in place.state().items() if key in heads(first)}
    newest = heads(first)[-1]
    kept(place)
    mine = heads(settled(place))
    if isinstance(place, DictCase):
        del place.data[mine[0]]
    else:
        (place.home / mine[0]).unlink()
    assert newest in other
    with pytest.raises(UsageError):
        undo(place.target(), 2)
    assert undo(place.target()).left == 0


def with_own_hands(case: Case, key: str, value: bytes | None) -> None:
    if isinstance(case, FolderCase):
        path = case.home / key if "zappend/" in key else case.path / key
        path.unlink()
        if value is not None:
            path.write_bytes(value)
        return
    assert isinstance(case, (DictCase, ObjectCase))
    key = key if key in case.data else f"cube/{key}"
    del case.data[key]
    if value is not None:
        case.data[key] = value


@pytest.mark.parametrize("where", ["dict", "folder", "objects"])
def test_damaged_logs(where: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each object of a kept log is missing, cut or changed: refused, and nothing is changed."""
    case: Case = {"dict": DictCase, "objects": ObjectCase, "folder": lambda: FolderCase(home)}[where]()
    small_log_objects(monkeypatch, 20)
    count = 0
    number = 0
    while True:
        state = kept(case)
        names = [name for name in state if heads(state)[-1].split("-")[2][:32] in name]
        if number == len(names):
            break
        value = state[names[number]]
        assert value is not None
        wrongs = [None, value[:-1], value[:40] + b"x" + value[41:]]
        if "/original-" in names[number]:
            wrongs = [None]
        elif names[number] in heads(state) and where != "objects":
            wrongs.remove(None)  # then there is no such log
        for wrong in wrongs:
            with_own_hands(case, names[number], wrong)
            before = settled(case) if wrong is not None or where != "objects" else None
            for dry_run in (True, False):
                with pytest.raises(LogDamaged):
                    undo(case.target(), dry_run=dry_run)
            assert before is None or settled(case) == before
            count += 1
            state = kept(case)
            names = [name for name in state if heads(state)[-1].split("-")[2][:32] in name]
        number += 1
    assert count >= 3


def test_a_log_of_a_newer_version(place: Case) -> None:
    from zappend.txn import record

    state = kept(place)
    newest = heads(state)[-1]
    value = state[newest]
    assert value is not None
    body = record.unpack("", value, "kept")
    kind, txn, critical = body.pop("kind"), body.pop("txn"), body.pop("critical")
    with_own_hands(place, newest, record.pack(kind, txn, critical=[*critical, "time travel"], **body))
    before = place.state()
    with pytest.raises(LogVersionError, match="time travel"):
        undo(place.target())
    assert place.state() == before


def test_a_pending_transaction_is_settled_first(folder: FolderCase) -> None:
    folder.reset({"a/0": b"0"})
    with transaction(folder.target(), keep_undo=1) as txn:
        txn["a/0"] = b"1"
    old = settled(folder)
    faults = Faults(lasting=True)
    txn = transaction(folder.target(faults), keep_undo=2)
    txn.__enter__()
    txn["a/0"] = b"2"
    folder.bury()
    with pytest.raises(TargetError, match="a dry run can tell nothing"):
        undo(folder.target(), dry_run=True)
    undo(folder.target())
    assert folder.state() == {"cube.zarr": None, "cube.zarr/a": None, "cube.zarr/a/0": b"0"}
    assert old != folder.state()


def test_nothing_is_made_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        undo(tmp_path / "none.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_kept_object_without_a_lock_does_not_count() -> None:
    """On an object store only what the lock names counts: a late copy of a log that was dropped is swept away."""
    case = ObjectCase()
    state = kept(case)
    late = {name: value for name, value in state.items() if name in heads(state) and value is not None}
    undo(case.target(), 2)
    assert case.state() == cube_in(case.state())
    case.data.update(late)
    with pytest.raises(UsageError):
        undo(case.target())
    assert case.state() == cube_in(case.state())


# The commands.


def test_commands(tmp_path: Path) -> None:
    for number in range(3):
        cubes.packed(2 * number, 2).to_netcdf(tmp_path / f"{number}.nc", engine="h5netcdf")
    files = [tmp_path / f"{number}.nc" for number in range(3)]
    target = tmp_path / "cube.zarr"
    assert run("append", "-t", target, "--keep-undo", "9", files[0], files[2]).code == 0
    before = cubes.tree(target)
    assert run("insert", "-t", target, "--slice-size", "any", "--keep-undo", "9", files[1]).code == 0
    assert run("replace", "-t", target, "--keep-undo", "9", files[1]).code == 0
    assert run("delete", target, "--index", "1", "--keep-undo", "9").code == 0
    assert run("keep", target, "--last", "1", "--keep-undo", "9").code == 0
    told = run("undo", target, "-n", "2", "--dry-run")
    assert told.code == 0
    assert "would restore a/.zarray" in told.out
    assert told.out.splitlines()[-1].startswith(f"{target}: 2 commits would be taken back, 4 more can be; ")
    assert run("undo", target, "-n", "4").out.startswith(f"{target}: 4 commits taken back, 2 more can be; ")
    assert cubes.tree(target) == before
    assert run("undo", "-c", write(tmp_path / "c.yaml", f"target_dir: {target}\n"), "-n", "2").code == 0
    assert not target.exists()
    refused = run_process("undo", target)
    assert refused.code == 2
    assert "the undo logs of none are there" in refused.err
    assert run("append", "-t", target, "--keep-undo", "1", files[0]).code == 0
    (target / ".zmetadata").write_bytes(b"{}")
    assert run("undo", target).code == 4
    assert run("undo").code == 2


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_an_interrupted_delete_of_the_place_harms_nothing(tmp_path: Path) -> None:
    """Who deletes the place while nobody writes only loses the undo logs."""
    target = tmp_path / "cube.zarr"
    zappend.append(target, cubes.small(), keep_undo=1)
    shutil.rmtree(tmp_path / "cube.zarr.zappend")
    zappend.append(target, cubes.small(2), keep_undo=1)
    zappend.undo(target)
    cubes.assert_cube(target, cubes.small())
