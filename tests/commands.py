"""The command line, run in this process, which is quick, or in one of its own, which is the real thing."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from zappend.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def run(*args: str | os.PathLike[str], cwd: Path | None = None) -> Outcome:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(contextlib.chdir(cwd or "."))
        stack.enter_context(mock.patch.object(sys, "argv", ["zappend", *map(str, args)]))
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def run_process(*args: str | os.PathLike[str], cwd: Path | None = None) -> Outcome:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "zappend", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)
