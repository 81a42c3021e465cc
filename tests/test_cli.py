"""The command line: what it does, prints and returns, and what it does not import."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import cubes
import pytest
import xarray as xr
from commands import run, run_process

import zappend
from zappend.cli import main
from zappend.txn.files import Files


def test_append_then_append_then_rollback(tmp_path: Path) -> None:
    paths = cubes.write_netcdf(tmp_path, [cubes.packed(0), cubes.packed(2), cubes.packed(4)])
    target = tmp_path / "cube.zarr"
    assert run_process("append", "-t", target, "--zarr-format", "3", *paths[:2]) == (
        0,
        "2 slices appended.\n",
        "WARNING: small chunks are slow to write and to read: 'ok' ((2,), 2 bytes), 'note' ((2,), 64 bytes); "
        "variables can set others\n",
    )
    assert run("append", "-t", target, "--if-exists", "skip", *paths) == (
        0,
        "1 slice appended. 2 skipped: in the cube already.\n",
        "",
    )
    cubes.assert_cube(target, cubes.concatenated([cubes.packed(0), cubes.packed(2), cubes.packed(4)]))
    assert run("rollback", target) == (0, f"{target}: nothing to roll back.\n", "")
    for args in (["rollback", "-t", target], ["rollback", "-c", tmp_path / "c.yaml"]):
        (tmp_path / "c.yaml").write_text(f"target_dir: {target}\n")
        assert run(*args) == (0, f"{target}: nothing to roll back.\n", "")
    none = tmp_path / "none.zarr"
    assert run("rollback", none) == (0, f"there is no cube at {none}, and nothing to roll back.\n", "")
    assert not none.exists()
    assert run("rollback").err.startswith("Error: no target: give TARGET")
    assert run("rollback", "-t", target, target).code == 2
    outcome = run("append", "-t", target, "-v", "--dry-run", "--append-step", "any", paths[0])
    assert outcome.out.endswith("1 slice would be appended.\n")
    assert "at 6:8" in outcome.out


def test_settings_from_files_and_options(tmp_path: Path) -> None:
    paths = cubes.write_netcdf(tmp_path, [cubes.packed(0), cubes.packed(2)])
    (tmp_path / "a.yaml").write_text("zarr_format: 2\nappend_step: 1D\n")
    (tmp_path / "b.toml").write_text('zarr_format = 3\ndurability = "process"\n')
    (tmp_path / "c.json").write_text('{"threads": 1}')
    configs = [arg for name in ("a.yaml", "b.toml", "c.json") for arg in ("-c", tmp_path / name)]
    assert run("append", "-t", tmp_path / "cube", *configs, *paths).code == 0
    assert (tmp_path / "cube" / "zarr.json").exists()
    assert run("append", "-t", tmp_path / "two", *configs, "--zarr-format", "2", *paths).code == 0
    assert (tmp_path / "two" / ".zgroup").exists()


WRITER = """
import sys, zappend
with zappend.transaction(sys.argv[1]) as txn:
    txn["a/0"] = b"unfinished"
    print("working", flush=True)
    sys.stdin.read(1)
"""


@pytest.mark.effect("lock_timeout")
def test_two_writers(tmp_path: Path) -> None:
    """One works; the other is told who, where and since when, or waits."""
    target = tmp_path / "cube"
    zappend.append(target, cubes.packed(0))
    [path] = cubes.write_netcdf(tmp_path, [cubes.packed(2)])
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == "working\n"
        for args in (("append", "-t", target, path), ("rollback", target)):
            outcome = run_process(*args)
            assert outcome.code == 3
            assert f"{target} is locked by pid {writer.pid} of " in outcome.err
            assert f"on host {os.uname().nodename}, since 20" in outcome.err
            assert "s ago)" in outcome.err
        waiting = subprocess.Popen(
            [sys.executable, "-m", "zappend", "append", "-t", str(target), "--lock-timeout", "60", str(path)]
        )
        writer.stdin.write("x")
        writer.stdin.flush()
        assert waiting.wait(timeout=60) == 0
        assert writer.wait() == 0
    assert (target / "a" / "0").read_bytes() == b"unfinished"
    with xr.open_zarr(target, chunks=None) as cube:
        xr.testing.assert_identical(cube.load(), cubes.concatenated([cubes.packed(0), cubes.packed(2)]))


def test_a_killed_writer_is_rolled_back_from_the_command_line(tmp_path: Path) -> None:
    target = tmp_path / "cube"
    zappend.append(target, cubes.packed(0))
    before = cubes.tree(tmp_path)
    command = [sys.executable, "-c", WRITER, str(target)]
    for after in ("rollback", "append"):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "working\n"
            writer.send_signal(signal.SIGKILL)
        assert cubes.tree(tmp_path) != before
        if after == "rollback":
            outcome = run("rollback", "--dry-run", target)
            assert outcome.out.splitlines() == [
                "would remove a/0",
                f"{target}: would be rolled back; 0 keys written, 1 removed.",
            ]
            assert run("rollback", target).out == f"{target}: rolled back; 0 keys written, 1 removed.\n"
            assert cubes.tree(tmp_path) == before
        else:
            zappend.append(target, cubes.packed(2))
            cubes.assert_cube(target, cubes.concatenated([cubes.packed(0), cubes.packed(2)]))
            assert not os.path.exists(f"{target}.zappend")


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "cube"
    zappend.append(target, cubes.packed(0))
    (tmp_path / "cube.zappend").mkdir()
    (tmp_path / "cube.zappend" / "undo").write_bytes(b"damaged")
    before = cubes.tree(tmp_path)
    outcome = run("rollback", target)
    assert outcome.code == 4
    assert "'undo' is cut short" in outcome.err
    assert cubes.tree(tmp_path) == before


SOURCE = """
import sys, threading
import numpy as np, xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

class Slow(BackendArray):
    shape, dtype = (2, 3), np.dtype("f4")

    def __getitem__(self, key):
        try:
            print("working", flush=True)
            threading.Event().wait(60)
        finally:
            print("leaving", flush=True)
            sys.stdin.readline()

def make(item):
    first = 2 * int(item[0])
    dataset = xr.Dataset({"sst": (("time", "x"), np.ones((2, 3), "f4"))}, {"time": [first, first + 1]})
    if item[1:]:
        dataset["sst"] = (("time", "x"), indexing.LazilyIndexedArray(Slow()))
    return dataset
"""

ENDINGS = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (143, "ended by SIGTERM"),
    signal.SIGHUP: (129, "ended by SIGHUP"),
}


@pytest.mark.parametrize(
    ("number", "count", "threads"),
    [(signal.SIGINT, 1, 2), (signal.SIGTERM, 0, 1), (signal.SIGTERM, 2, 2), (signal.SIGHUP, 1, 1)],
)
def test_signals_that_end_a_command_roll_the_slice_back(
    tmp_path: Path, number: signal.Signals, count: int, threads: int
) -> None:
    """Those before it stay, and one line tells so; further signals, as of a terminal that closes, do not cut it off."""
    (tmp_path / "source.py").write_text(SOURCE)
    (tmp_path / "c.yaml").write_text(f"slice_source: source.py:make\nthreads: {threads}\n")
    names = [*map(str, range(count)), f"{count}slow"]
    if count:
        common = ("append", "-c", "c.yaml", "-t")
        assert run_process(*common, "expected", *names[:-1], cwd=tmp_path).code == 0
        assert run_process(*common, "cube", names[0], cwd=tmp_path).code == 0
    command = [sys.executable, "-m", "zappend", "append", "-c", "c.yaml", "-t", "cube", "--if-exists", "skip", *names]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    # The tests themselves may run under nohup, which has its children ignore SIGHUP.
    as_usual = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=tmp_path, text=True, preexec_fn=as_usual, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "working\n"
        assert (tmp_path / "cube.zappend").exists()
        process.send_signal(number)
        assert process.stdout.readline() == "leaving\n"
        if number != signal.SIGINT:
            process.send_signal(signal.SIGHUP)
        process.stdin.close()
        assert process.stdout.read() == ""
        lines = [line for line in process.stderr.read().splitlines() if not line.startswith("WARNING: small chunks")]
    code, text = ENDINGS[number]
    assert process.returncode == code
    went_in = {0: "no slice", 1: "no slice", 2: "1 slice"}[count]  # the first one is skipped
    assert lines == [f"Error: {text} (slice {count}slow was rolled back; {went_in} went in)"]
    assert sorted(path.name for path in tmp_path.glob("cube*")) == ["cube"] * bool(count)
    if count:
        assert cubes.tree(tmp_path / "cube") == cubes.tree(tmp_path / "expected")


def test_a_signal_while_the_next_slice_is_awaited(tmp_path: Path) -> None:
    paths = cubes.write_netcdf(tmp_path, [cubes.packed(0)])
    command = [sys.executable, "-m", "zappend", "append", "-t", str(tmp_path / "cube"), "-v", "-"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(f"{paths[0]}\n")
        process.stdin.flush()
        while not process.stderr.readline().startswith("INFO: slice "):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == "Error: ended by SIGTERM (1 slice went in)\n"
    assert process.returncode == 143
    cubes.assert_cube(tmp_path / "cube", cubes.packed(0))


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As ``nohup`` wants it."""
    code = (
        "import signal, sys, threading\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from zappend.signals import interrupting\n"
        "with interrupting():\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    print(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\nTrue\n"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slice, the target, and the file that cannot be made, not its temporary name."""
    paths = cubes.write_netcdf(tmp_path, [cubes.packed(0), cubes.packed(2), cubes.packed(4)])
    target = tmp_path / "cube"
    zappend.append(target, paths[0])
    opened = Files.open

    def refused(self: Files, path: str, flags: int) -> int:
        # As the system does, also where the tests have every right.
        if path.startswith(f"{target}/a/") and "-2." in path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(self, path, flags)

    monkeypatch.setattr(Files, "open", refused)
    outcome = run("append", "-t", target, "--threads", "1", *paths[1:])
    assert outcome.code == 1
    assert outcome.err == (
        f"Error: Permission denied: {target}/a/2.0.0 (slice {paths[2]} was not appended to {target}) "
        f"(the slice before it went in)\n"
    )
    cubes.assert_cube(target, cubes.concatenated([cubes.packed(0), cubes.packed(2)]))


@pytest.mark.effect("dry_run")
def test_a_dry_run_tells_that_the_cube_would_go(tmp_path: Path) -> None:
    paths = cubes.write_netcdf(tmp_path, [cubes.packed(0), cubes.packed(2)])
    target = tmp_path / "cube"
    dry = ("append", "-t", target, "--dry-run", "--force-new")
    gone = "The cube that is there would be removed, with all in its folder.\n"
    first = run(*dry, *paths)
    assert first.code == 0
    assert gone not in first.out
    assert "make a cube, and are the same in all; values that do not depend on time are equal in all" in first.out
    zappend.append(target, paths[0])
    second = run(*dry, *paths)
    assert second.out.startswith(gone)
    assert f"{paths[0]}: at 0:2, " in second.out
    assert second.out.count("in place of the one that is there") == 1
    alone = run("append", "-t", tmp_path / "new", "--dry-run", paths[0]).out
    assert "Checked of the slice: " in alone
    assert "the cube's" not in alone
    assert "those of the cube" in run("append", "-t", target, "--dry-run", paths[1]).out
    assert zappend.append(target, paths, force_new=True).slices[0].replaces
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").touch()
    outcome = run("append", "-t", tmp_path / "own", "--dry-run", "--force-new", paths[0])
    assert (outcome.code, "is no Zarr group, but it is not empty either" in outcome.err) == (1, True)


@pytest.mark.parametrize("zarr_format", ["2", "3"])
def test_the_demo(tmp_path: Path, zarr_format: str) -> None:
    outcome = run_process("demo", "--keep", tmp_path / "demo", "--zarr-format", zarr_format)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Killed the append" in outcome.out
    assert "the cube is the old one byte for byte" in outcome.out
    assert "(time: 5, lat: 90, lon: 180)" in outcome.out
    assert run("demo", "--keep", tmp_path / "demo").code == 2


def test_help_and_version_import_neither_xarray_nor_zarr() -> None:
    for args in (["--help"], ["--version"], ["append", "--help"], ["rollback", "--help"]):
        code = (
            "import sys, json, zappend.cli as c\n"
            "try: c.cli(sys.argv[1:], prog_name='zappend')\n"
            "except SystemExit: pass\n"
            "print(json.dumps([m for m in ('xarray', 'zarr', 'numpy', 'pandas') if m in sys.modules]))"
        )
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout.splitlines()[-1]) == []


class Terminal(io.StringIO):
    """A stream that looks like a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_progress_bar_on_a_terminal(tmp_path: Path) -> None:
    paths = cubes.write_netcdf(tmp_path, [cubes.small(2 * i) for i in range(3)])
    arguments = ["zappend", "append", "-t", str(tmp_path / "cube.zarr"), *map(str, paths)]
    terminal = Terminal()
    patched = mock.patch.object(sys, "argv", arguments)
    with contextlib.redirect_stderr(terminal), patched, pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "Appending" in terminal.getvalue()
    cubes.assert_cube(tmp_path / "cube.zarr", cubes.concatenated([xr.load_dataset(path) for path in paths]))
