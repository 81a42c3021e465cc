"""The loop that takes and gives back a local lock, as a model of which every interleaving is explored.

The lock is a `flock` on a file in a folder; both are made by whoever needs them, and removed by the holder, so nothing
is left. `process` does what ``zappend.txn.lock`` does, call by call; a ``yield`` is one system call. The attacks are
those of ``docs/transactions.md``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from explorer import Automaton, Program, Result, explore

__all__ = ["MUTATIONS", "Cast", "check"]

MUTATIONS = (
    "inode is not checked again",
    "unlock before unlink",
    "rmtree of the place",
    "place is removed before the lock",
    "a vanished folder is not expected",
)

ENDED, LOCKED = "held it and gave it back", "raised Locked"


class Mkdir(NamedTuple):
    """Make the folder, which may be there."""


class Open(NamedTuple):
    """Open the file, which is made if need be; answers its inode, or ``None`` if there is no folder."""


class Flock(NamedTuple):
    """Lock the open file; answers whether nobody else has it locked."""


class Stat(NamedTuple):
    """Answers the inode of the file that lies at the path, or ``None``."""


class Hold(NamedTuple):
    """Work on the target."""


class Unlink(NamedTuple):
    """Remove what lies at the path."""


class Rmdir(NamedTuple):
    """Remove the folder, if it is there and empty."""


class Close(NamedTuple):
    """Close the open file, which frees the lock."""


class Patience(NamedTuple):
    """Answers whether to try again; else `Locked` is raised."""


class Broken(NamedTuple):
    """An exception that is none of ours."""

    why: str


Wrong = frozenset[str]


def process(rounds: int, wrong: Wrong) -> Generator[Any, Any, str]:
    """Take the lock, work, give it back, so many times."""
    for _round in range(rounds):
        while True:
            yield Mkdir()
            inode = yield Open()
            if inode is None:
                # The folder was removed by a holder that released (attack 30).
                if "a vanished folder is not expected" in wrong:
                    yield Broken("FileNotFoundError")
                continue
            is_ours = yield Flock()
            at_path = yield Stat()
            if is_ours and (at_path == inode or "inode is not checked again" in wrong):
                # Only the file that lies at the path is the lock: this one may have been unlinked by its holder
                # between our opening and our locking, and another holds the next one (attack 29).
                break
            yield Close()
            if not is_ours and at_path == inode:
                tries_again = yield Patience()
                if not tries_again:
                    return LOCKED
        yield Hold()
        if "unlock before unlink" in wrong:
            yield Close()
        if "place is removed before the lock" in wrong:
            yield Rmdir()
        # While we hold it: after it is unlocked, what lies at the path may be the next holder's.
        at_path = yield Stat()
        if at_path == inode or "unlock before unlink" in wrong:
            yield Unlink()
        if "rmtree of the place" in wrong:
            yield Unlink()  # whatever lies there: already the lock of another
        if "place is removed before the lock" not in wrong:
            yield Rmdir()  # left alone, if another has made the next lock in it
        if "unlock before unlink" not in wrong:
            yield Close()
    return ENDED


@dataclass(frozen=True)
class Cast:
    """How many processes there are, how often each takes the lock, and how many of them crash."""

    processes: int
    rounds: int = 1
    crashes: int = 0

    def __str__(self) -> str:
        return f"{self.processes} processes, {self.rounds} rounds each, {self.crashes} crashes"


class Actor(NamedTuple):
    """A process: its node (-1: it has crashed), the inode that it has open (-1: none), whether it has that locked."""

    node: int
    inode: int = -1
    is_locked: bool = False


DEAD = Actor(-1)


class State(NamedTuple):
    """Whether the folder is there, the inode at the path (-1: none), crashes to come, and the processes, sorted."""

    folder: bool
    at_path: int
    crashes: int
    actors: tuple[Actor, ...]


class Model:
    """All interleavings of a cast."""

    def __init__(self, cast: Cast, wrong: Wrong) -> None:
        self._automaton = Automaton()
        self.unused = cast.crashes
        program: Program = partial(process, cast.rounds, wrong)
        self.start = State(False, -1, cast.crashes, (Actor(self._automaton.start(program)),) * cast.processes)

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        """Return each step that somebody can take."""
        for index, actor in enumerate(state.actors):
            request = None if actor == DEAD else self._automaton.requests[actor.node]
            if request is None or isinstance(request, Broken):
                continue
            others = state.actors[:index] + state.actors[index + 1 :]
            for answer in (True, False) if isinstance(request, Patience) else (None,):
                after, moved, answer = self._perform(state._replace(actors=others), actor, request, answer)
                moved = moved._replace(node=self._automaton.after(actor.node, answer))
                yield f"{actor}: {request} → {answer}", after._replace(actors=_sorted(*others, moved))
            if state.crashes:
                yield f"{actor}: crashes", state._replace(crashes=state.crashes - 1, actors=_sorted(*others, DEAD))

    @staticmethod
    def _perform(state: State, actor: Actor, request: Any, answer: Any) -> tuple[State, Actor, Any]:
        """Carry out one call; return the state after it, the process that made it, and the answer."""
        match request:
            case Mkdir():
                return state._replace(folder=True), actor, None
            case Open() if not state.folder:
                return state, actor, None
            case Open():
                inode = state.at_path
                if inode < 0:
                    # The smallest number that is free: one that anybody has open is not given again.
                    taken = {other.inode for other in state.actors}
                    inode = next(number for number in range(len(taken) + 1) if number not in taken)
                return state._replace(at_path=inode), actor._replace(inode=inode), inode
            case Flock():
                is_free = not any(other.is_locked and other.inode == actor.inode for other in state.actors)
                return state, actor._replace(is_locked=is_free), is_free
            case Stat():
                return state, actor, state.at_path if state.at_path >= 0 else None
            case Unlink():
                return state._replace(at_path=-1), actor, None
            case Rmdir():
                return state._replace(folder=state.folder and state.at_path >= 0), actor, None
            case Close():
                return state, actor._replace(inode=-1, is_locked=False), None
        return state, actor, answer

    def invariant(self, state: State) -> str:
        """Tell whether two hold the lock, or one got an exception."""
        self.unused = min(self.unused, state.crashes)
        requests = [self._automaton.requests[actor.node] for actor in state.actors if actor != DEAD]
        if sum(isinstance(request, Hold) for request in requests) > 1:
            return "two holders"
        return next((request.why for request in requests if isinstance(request, Broken)), "")

    def at_end(self, state: State) -> str:
        """Tell what is wrong when all have ended: something is left without a crash, or nobody ever got the lock."""
        if DEAD in state.actors:
            return ""
        if state.folder or state.at_path >= 0:
            return "something is left"
        results = {self._automaton.results[actor.node] for actor in state.actors}
        return "" if ENDED in results else "nobody got the lock"


def _sorted(*actors: Actor) -> tuple[Actor, ...]:
    # Processes are alike, so states that differ only in who is who are one.
    return tuple(sorted(actors))


def check(cast: Cast, *wrong: str) -> Result:
    """Explore all interleavings of `cast`, with the loop changed as `wrong` says."""
    unknown = set(wrong) - set(MUTATIONS)
    assert not unknown, unknown
    model = Model(cast, frozenset(wrong))
    result = explore(model.start, model.successors, model.invariant, model.at_end)
    result.unused = model.unused
    return result
