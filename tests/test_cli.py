"""The command line: what it does, prints and returns, and what it does not import."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import cubes
import pytest
import xarray as xr
from commands import run, run_process

import zappend
from zappend.cli import main


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
    assert run("rollback", tmp_path / "none.zarr").code == 0
    assert not (tmp_path / "none.zarr").exists()
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
