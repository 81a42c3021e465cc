"""How long Python takes to begin: the command line, and the import."""

from __future__ import annotations

from functools import partial

from benchmarks.measure import Setting, Timed, alternate, child
from benchmarks.table import Goal, Table, table_of

BARE = "python -c pass"
COMMANDS = {
    BARE: ("-c", "pass"),
    "import zappend": ("-c", "import zappend"),
    "zappend --version": ("-m", "zappend", "--version"),
    "zappend append --help": ("-m", "zappend", "append", "--help"),
    "from zappend import append": ("-c", "from zappend import append"),
    "import xarray": ("-c", "import xarray"),
}


def run(setting: Setting) -> list[Table]:
    names, rounds = (list(COMMANDS)[:3], 1) if setting.quick else (list(COMMANDS), setting.rounds)
    times = alternate({name: partial(prepare, name) for name in names}, rounds)
    goals = [
        Goal(f"{name}, seconds beyond {BARE}", times.beyond(name, BARE), most=most)
        for name, most in (("zappend --version", 0.2), ("import zappend", 0.1))
    ]
    return [table_of("start", times, [BARE], goals)]


def prepare(name: str, number: int) -> Timed:
    return partial(child, *COMMANDS[name])
