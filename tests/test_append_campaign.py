"""Kills and errors at every system call of ``zappend append`` that changes files, and kills at random moments.

``strace`` kills a process on entering a call, which is then not made. Between two calls that change files nothing
changes, so a kill after one is the kill before the next, and the kill after the last is the end of the program.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import xarray as xr
from conftest import FolderCase, State
from faultlab import FORMATS, AppendJob, append_job, days, small_chunks

import zappend
from zappend import cli

pytestmark = pytest.mark.campaign
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

CALLS = (
    "openat,write,pwrite64,fsync,fdatasync,ftruncate,fchmod,?rename,?renameat,renameat2,?link,linkat,"
    "?unlink,unlinkat,?mkdir,mkdirat,?rmdir"
)
CALL = re.compile(r"(\d+) +(\w+)\((.*)")

RANDOM_KILLS = 50
"""In each of four campaigns."""


class Point(NamedTuple):
    """A call of the main thread: the `number`-th of that `name`."""

    name: str
    number: int
    line: str


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)


@pytest.fixture
def lab(tmp_path: Path) -> FolderCase:
    """A folder on disk for the cube; slices and logs lie beside it, in `tmp_path`."""
    home = tmp_path / "home"
    home.mkdir()
    return FolderCase(home.resolve())


@pytest.fixture(scope="module", autouse=True)
def totals(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Count what was tried, and tell at the end."""
    counts: Counter[str] = Counter()
    yield counts
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    request.config.get_terminal_writer().line(f"\nTried: {told}")


# Programs under strace: a fork of this process, which has everything imported, or a new Python.

Runner = Callable[[list[str], Sequence[str]], int]


def run_forked(command: list[str], strace: Sequence[str]) -> int:
    """Run ``zappend`` with the arguments `command` under `strace`; return its exit code, negative for a signal."""
    go, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.read(go, 1)
            code = be_zappend(command)
        finally:
            os._exit(code)
    with subprocess.Popen([*strace, "-p", str(pid)], stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        attached = tracer.stderr.readline()
        os.write(ready, b"!")
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(go)
    os.close(ready)
    assert b"attached" in attached, attached
    return code


def be_zappend(command: list[str]) -> int:
    """Do what the program does with the arguments `command`; return its exit code."""
    # The standard streams are no files of the cube, and must not fail with them.
    silence = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
    with mock.patch.object(sys, "argv", ["zappend", *command]), silence[0], silence[1]:
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def run_new(command: list[str], strace: Sequence[str]) -> int:
    """Do as `run_forked` does, with a Python of its own."""
    python = [sys.executable, "-m", "zappend"]  # calls that are not traced take no time
    return subprocess.run([*strace, *python, *command], env=ENVIRONMENT, capture_output=True, check=False).returncode


ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def trace(lab: FolderCase, job: AppendJob, run: Runner, inject: str = "") -> tuple[int, list[str]]:
    """Run `job` under ``strace``; return its exit code and the lines of the trace."""
    log = lab.home.parent / "trace"
    strace = ["strace", "-f", "-y", "-o", str(log), "-e", f"trace={CALLS}"]
    if inject:
        strace += ["-e", f"inject={inject}"]
    code = run(job.command(lab.path), strace)
    return code, log.read_text(errors="replace").splitlines()


def find_points(lab: FolderCase, lines: list[str]) -> list[Point]:
    """Return the calls that touch the folder of the cube."""
    counts: Counter[tuple[str, str]] = Counter()
    points, threads = [], set()
    for line in lines:
        if match := CALL.match(line):
            thread, name, rest = match.groups()
            counts[thread, name] += 1
            if str(lab.home) in rest:
                threads.add(thread)
                points.append(Point(name, counts[thread, name], line))
    assert len(threads) == 1, "calls are counted by thread, so there must be one"
    return points


def changes_files(point: Point) -> bool:
    return point.name != "openat" or "O_CREAT" in point.line


class Campaign:
    """One job, the states before and after it, and the calls that it makes."""

    def __init__(self, lab: FolderCase, job: AppendJob, run: Runner) -> None:
        self.lab, self.job, self.run = lab, job, run
        lab.reset(job.old)
        self.old = lab.state()
        # Once here, so that forks of this process have imported everything, also what tells of errors.
        assert be_zappend(["append", f"--target={os.devnull}", ""]) == 1
        assert be_zappend(job.command(lab.path)) == 0
        zappend.rollback(lab.path)
        self.new = lab.state()
        lab.reset(job.old)
        code, lines = trace(lab, job, run)
        assert code == 0, lines[-5:]
        assert lab.state() == self.new
        self.points = find_points(lab, lines)
        assert len([p for p in self.points if changes_files(p)]) > 40, "hardly anything was tried"

    def kill(self, point: Point) -> None:
        """Run the job and kill it on entering the call `point`."""
        self.lab.reset(self.job.old)
        code, lines = trace(self.lab, self.job, self.run, f"{point.name}:signal=SIGKILL:when={point.number}")
        assert code in (-signal.SIGKILL, 128 + signal.SIGKILL), (point, code)
        last = [line for line in lines if CALL.match(line)][-1]
        assert f" {point.name}(" in last, (point, last)
        assert str(self.lab.home) in last, (point, last)

    def fail(self, point: Point, error: str, *, lasting: bool) -> int:
        """Run the job and let the call `point` fail, with `lasting` all later ones, too; return the exit code."""
        self.lab.reset(self.job.old)
        when = f"{point.number}{'+' if lasting else ''}"
        code, lines = trace(self.lab, self.job, self.run, f"{point.name}:error={error}:when={when}")
        injected = [line for line in lines if line.endswith("(INJECTED)")]
        assert injected, (point, "no fault")
        assert str(self.lab.home) in injected[0], (point, injected[0])
        return code


@pytest.fixture(params=[(k, f) for k in ("create", "append") for f in FORMATS], ids=lambda p: f"{p[0]}-v{p[1]}")
def campaign(request: pytest.FixtureRequest, lab: FolderCase, small: None, forks: None) -> Campaign:
    return Campaign(lab, append_job(*request.param, lab.home.parent), run_forked)


def check_kills(campaign: Campaign, then: str) -> int:
    lab, old, new, job = campaign.lab, campaign.old, campaign.new, campaign.job
    points = [point for point in campaign.points if changes_files(point)]
    completed = []
    for point in points:
        campaign.kill(point)
        if then == "rollback":
            zappend.rollback(lab.path)
            assert lab.state() in (old, new), point
            completed.append(lab.state() == new)
        job.repeat(lab.path)
        assert lab.state() == new, point
    assert completed == sorted(completed)
    return len(points)


@needs_strace
@pytest.mark.parametrize("then", ["rollback", "again"])
def test_killed_at_every_call(campaign: Campaign, then: str, totals: Counter[str]) -> None:
    points = check_kills(campaign, then)
    totals["kills at calls"] += points


@needs_strace
@pytest.mark.usefixtures("small")
def test_program_killed_at_every_call(lab: FolderCase, totals: Counter[str]) -> None:
    points = check_kills(Campaign(lab, append_job("append", 2, lab.home.parent), run_new), "rollback")
    totals["kills at calls of a new process"] += points


@needs_strace
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_error_at_every_call(campaign: Campaign, error: str, lasting: bool, totals: Counter[str]) -> None:
    lab, old, new = campaign.lab, campaign.old, campaign.new
    for point in campaign.points:
        code = campaign.fail(point, error, lasting=lasting)
        assert code in (0, 1, 6), (point, code)
        if code == 1 and not lasting:
            assert lab.state() == old, point
        zappend.rollback(lab.path)
        assert lab.state() in {0: [new], 1: [old], 6: [old, new]}[code], (point, code)
        campaign.job.repeat(lab.path)
        assert lab.state() == new, point
    totals[f"errors {error} at calls"] += len(campaign.points)


# Kills at random moments, with the default threads.

ONE_BY_ONE = """
import sys, zappend
for path in sys.argv[2:]:
    zappend.append(sys.argv[1], path, if_exists="skip", zarr_format={zarr_format})
    print(path, flush=True)
"""


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("how", ["command", "function"])
def test_killed_at_random_moments(lab: FolderCase, how: str, zarr_format: int, totals: Counter[str]) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    folder = lab.home.parent
    paths = [write_slice(folder, number) for number in range(12)]
    if how == "command":
        program = ["-m", "zappend", "append", "--if-exists=skip", f"--zarr-format={zarr_format}"]
        command = [sys.executable, *program, f"--target={lab.path}", *paths]
    else:
        command = [sys.executable, "-c", ONE_BY_ONE.format(zarr_format=zarr_format), str(lab.path), *paths]
    prefixes, step = grow(lab, paths, zarr_format)
    _, killed, duration = run_and_kill(lab, command, [60])
    assert not killed
    assert lab.state() == prefixes[-1]
    kills, inside, count = 0, 0, 0
    lab.reset(None)
    while kills < RANDOM_KILLS:
        delays = [chance.uniform(0, duration / 2), chance.uniform(0, step / 2)]
        acknowledged, killed, _ = run_and_kill(lab, command, delays)
        kills += killed
        inside += killed and lab.place.exists()
        if not killed or chance.random() < 0.7:
            zappend.rollback(lab.path)
            state = lab.state()
            assert state in prefixes, "no number of whole slices"
            assert prefixes.index(state) >= max(count, acknowledged), "slices were lost"
            count = prefixes.index(state)
        if not killed:
            assert count == len(paths)
            lab.reset(None)
            count = 0
    assert inside > RANDOM_KILLS / 5, "hardly any kill came while there was something to lose"
    totals["kills at random moments"] += kills
    totals["of these while the lock was held"] += inside


def write_slice(folder: Path, number: int) -> str:
    """Write a slice whose chunks are large enough to be kept in a new cube; return its path."""
    new = days(2 * number)
    values = xr.Variable(("time", "y", "x"), new.sst.values.repeat(128, 1).repeat(256, 2))
    new = new.drop_vars(["sst", "flags", "x"]).assign(sst=values)
    path = folder / f"{number:02}.nc"
    new.to_netcdf(path, engine="h5netcdf", encoding={"sst": {"chunksizes": (2, 64, 512)}})
    return str(path)


def grow(lab: FolderCase, paths: list[str], zarr_format: int) -> tuple[list[State], float]:
    """Return the states of the cube after none, one, two, … slices, and the seconds that one of them takes."""
    states = [lab.state()]
    begin = time.monotonic()
    for path in paths:
        zappend.append(lab.path, path, zarr_format=zarr_format)
        states.append(lab.state())
    step = (time.monotonic() - begin) / len(paths)
    lab.reset(None)
    return states, step


def run_and_kill(lab: FolderCase, command: list[str], delays: list[float]) -> tuple[int, bool, float]:
    """Run `command`, and unless it has ended, kill it after `delays`, each counted from when it next has the lock.

    Return how many slices it said it had appended, whether it was killed, and how long it worked.
    """
    begin = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for delay in delays:
            while process.poll() is None and not holds_lock(lab, process.pid):
                time.sleep(0.001)
            begin = begin or time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                process.wait(delay)
        process.kill()
        told, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return told.count(".nc\n"), process.returncode != 0, time.monotonic() - begin


def holds_lock(lab: FolderCase, pid: int) -> bool:
    try:
        return bool(json.loads((lab.place / "lock").read_bytes())["pid"] == pid)
    except (OSError, ValueError):
        return False
