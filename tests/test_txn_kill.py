"""Real processes, really killed at every operation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from conftest import SCENARIOS, FolderCase, Scenario, both_ends

from zappend.testing import Faults
from zappend.txn import rollback


def sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], None]) -> int:
    """Do `work` in a forked process; return its exit code, negative for the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("scenario", SCENARIOS[:2], ids=lambda scenario: scenario.name)
def test_killed_at_every_operation(folder: FolderCase, scenario: Scenario) -> None:
    old, new = both_ends(folder, scenario)
    seen = []
    for at in range(1, 1000):
        folder.reset(scenario.old)

        def work(at: int = at) -> None:
            with folder.begin(Faults(at, sigkill)) as txn:
                scenario.work(txn)

        code = in_child(work)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        rollback(folder.target())
        assert folder.state() in (old, new), at
        seen.append(folder.state() == new)
    assert at > 80
    assert folder.state() == new
    assert seen == sorted(seen)
    assert {False, True} == set(seen)
