"""Many processes on one object store, of which one at a time runs; who goes on, and what fails, is a list of choices.

Each process is real code in threads of its own. A thread stops at each request, at each sleep and where it waits for
another thread, and the scheduler picks who goes on. Time is virtual and passes only when everybody sleeps, is paused,
or has ended; a process that is paused is silent, its heartbeat too. So the same choices give the same run, and a run
that fails can be made shorter by putting 0, "nothing special", in place of choices.

Faults are those of a network and of processes: see `Fate`. `Monitor` watches every change of the store.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any, TypeVar, cast

import pytest

from zappend.errors import CommitStateUnknown, LogDamaged
from zappend.testing import Call, Faults, Killed, MemoryObjects
from zappend.txn import Transaction, objectplace, rollback, transaction
from zappend.txn.clock import Clock
from zappend.txn.lease import LEASE, LeaseLock
from zappend.txn.lockbody import Body
from zappend.txn.log import Log
from zappend.txn.objects import Conflict, Tag, Unclear
from zappend.txn.objectstore import ObjectStorage
from zappend.txn.storage import LOCK_NAME, Lock, Value

T = TypeVar("T")

CUBE, PLACE = "cube/", "cube.zappend/"
LOCK = PLACE + LOCK_NAME
READS = frozenset({"get", "head", "list"})
MOST_STEPS = 20_000
LONG = 1e6


class Choices:
    """What happens, number by number: drawn at random from a seed, or given; 0 where nothing more is given."""

    def __init__(self, seed: int | str | None = None, given: Sequence[int] = ()) -> None:
        self.made: list[int] = []
        self._random = None if seed is None else Random(seed)
        self._given = given

    def pick(self, weights: Sequence[float]) -> int:
        """Return a number below the count of `weights`, each as likely as its weight says."""
        if len(weights) == 1:
            return 0
        if self._random is not None:
            chosen = self._random.choices(range(len(weights)), weights)[0]
        else:
            at = len(self.made)
            chosen = min(self._given[at], len(weights) - 1) if at < len(self._given) else 0
        self.made.append(chosen)
        return chosen

    def one_of(self, items: Sequence[T]) -> T:
        return items[self.pick([1.0] * len(items))]

    def chance(self, probability: float) -> bool:
        return self.pick((1 - probability, probability)) == 1


class Fate(Enum):
    """What becomes of one request."""

    ANSWERED = "answered"
    SLOW = "takes a while"
    LOST = "lost"
    ANSWER_LOST = "carried out, answer lost"
    HELD = "held"
    REPEATED = "carried out, answer lost, a copy is on its way"
    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "carried out, killed"
    KILLED_HELD = "killed, the request is on its way"
    PAUSED_BEFORE = "paused before"
    PAUSED_AFTER = "carried out, paused"


WRITE_FAULTS = tuple(fate for fate in Fate if fate not in (Fate.ANSWERED, Fate.SLOW))
READ_FAULTS = (Fate.LOST, Fate.KILLED_BEFORE, Fate.PAUSED_AFTER)


@dataclass
class Late:
    """A request that may still take effect, until the store refuses it as too old."""

    process: Process
    call: Call
    do: Callable[[], object]
    until: float
    haste: float


class Process:
    """One process: its tasks live and die together, and are paused together."""

    def __init__(self, world: World, name: str, rate: float = 1.0) -> None:
        self.name = name
        self.dead = False
        self.paused_until = 0.0
        self.silent_since: float | None = None
        self.clock = WorldClock(world, self, rate)


def _taken() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class Task:
    """One thread of a process."""

    def __init__(self, world: World, process: Process, name: str, do: Callable[[], None]) -> None:
        self.process = process
        self.name = name
        self.ended = False
        self.wake_at = 0.0
        self.until: Callable[[], bool] | None = None
        self._world = world
        self._do = do
        self._turn = _taken()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if not self.process.dead:
                self._do()
        except Killed:
            pass
        except BaseException as error:
            self._world.wrong(f"{self.name} raised {error!r}")
        finally:
            self.ended = True
            self._world.hand_over(self)

    def is_ready(self, now: float) -> bool:
        if self.ended or self.process.paused_until > now:
            return False
        return self.wake_at <= now or (self.until is not None and self.until())

    def go_on(self) -> None:
        """Let this run until it stops; called by who stops now."""
        self._world.running = self
        self._turn.release()

    def stop(self, wake_at: float, until: Callable[[], bool] | None = None) -> None:
        """Let others run, until the time `wake_at` or until `until` holds; called by this task."""
        if not self.process.dead:
            self.wake_at, self.until = wake_at, until
            if self._world.hand_over(self):
                self._turn.acquire()
        if self.process.dead:
            raise Killed


class WorldClock(Clock):
    """The clock of one process: it shows the common time, but `rate` times as fast, and `jump` later."""

    def __init__(self, world: World, process: Process, rate: float = 1.0) -> None:
        self._world = world
        self._process = process
        self.rate = rate
        self.jump = 0.0

    def now(self) -> float:
        return self._world.now * self.rate + self.jump

    def sleep(self, seconds: float) -> None:
        self._world.running.stop(self._world.now + seconds / (self.rate or 1))

    def repeat(self, do: Callable[[], None], seconds: float) -> Callable[[], None]:
        ended: list[bool] = []

        def run() -> None:
            while not ended:
                self._world.running.stop(self._world.now + seconds / (self.rate or 1), lambda: bool(ended))
                if not ended:
                    do()

        self._world.start(self._process, f"{self._process.name}'s beat", run)
        return lambda: ended.append(True)


class Guard:
    """A re-entrant lock among tasks: who waits for it lets others run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._owner: Task | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me = self._world.running
        while self._owner not in (None, me):
            me.stop(float("inf"), lambda: self._owner is None)
        self._owner = me
        self._depth += 1

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None


class Line(Faults):
    """What is between one client and the store."""

    def __init__(self, world: World, process: Process, prefix: str) -> None:
        super().__init__()
        self._world = world
        self._process = process
        self._prefix = prefix

    def call(self, call: Call, do: Callable[[], T], half: Callable[[], object] | None = None) -> T:
        path = call.path if call.name == "delete_many" else self._prefix + call.path
        return self._world.request(self._process, Call(call.name, path), do)


class Numbered(bytes):
    """The bytes of an object, and its generation."""

    tag: Tag


class NumberedObjects(MemoryObjects):
    """Objects whose tags never repeat, as on Google Cloud Storage and Azure."""

    def get(self, key: str) -> tuple[bytes, Tag] | None:
        def do() -> tuple[bytes, Tag] | None:
            value = self.data.get(self.prefix + key)
            return None if value is None else (bytes(value), _generation(value))

        return self._call("get", key, do)

    def put(self, key: str, data: Value, over: Tag | None) -> Tag:
        content = bytes(data)

        def do() -> Tag:
            if self._tag_at(key) != over:
                raise Conflict(key)
            value = Numbered(content)
            value.tag = f"generation {next(_generations)}"
            self.data[self.prefix + key] = value
            return value.tag

        return self._call("put", key, do)

    def list(self, prefix: str) -> Iterator[tuple[str, Tag]]:
        return iter([(key, self._tag_at(key) or "") for key, _ in super().list(prefix)])

    def _tag_at(self, key: str) -> Tag | None:
        value = self.data.get(self.prefix + key)
        return None if value is None else _generation(value)


_generations = itertools.count(1)


def _generation(value: bytes) -> Tag:
    return value.tag if isinstance(value, Numbered) else "generation 0"


class SteppedStorage(ObjectStorage):
    """Storage whose threads wait for each other where the scheduler sees it."""

    def __init__(self, world: World, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._world = world

    def lock(self) -> Lock:
        lock = super().lock()
        assert isinstance(lock, LeaseLock)
        lock._guard = Guard(self._world)  # type: ignore[assignment]
        return lock


@dataclass(frozen=True)
class Setting:
    """What a world is like.

    Attributes
    ----------
    objects
        The kind of store.
    quiet
        Seconds after which a request that was sent is refused by the store.
    wait
        Seconds for which the storage waits until that is so; by default as long.
    faults
        How many faults there are at most.
    rate
        How likely a fault is at a write.
    fates
        The faults that there may be.
    """

    objects: type[MemoryObjects] = MemoryObjects
    quiet: float = 90.0
    wait: float | None = None
    faults: int = 2
    rate: float = 0.06
    fates: Sequence[Fate] = WRITE_FAULTS


class World:
    """The store, the processes, the time, and who runs."""

    def __init__(self, choices: Choices, setting: Setting, old: Mapping[str, bytes]) -> None:
        self.choices = choices
        self.setting = setting
        self.data: dict[str, bytes] = {CUBE + key: value for key, value in old.items()}
        self.now = 0.0
        self.late: list[Late] = []
        self.tasks: list[Task] = []
        self._events: list[tuple[float, str, Call | str, str, bytes | None]] = []
        self.fates: Counter[Fate] = Counter()
        self.delivered = self.steps = 0
        self.arrived: set[str] = set()
        self.faults_left = setting.faults
        self.problem: str | None = None
        self._all_stopped = _taken()
        self.running: Task
        self.monitor = Monitor(self)
        self._last: Task | None = None

    # Making processes.

    def process(self, name: str, rate: float = 1.0) -> Process:
        return Process(self, name, rate)

    def start(self, process: Process, name: str, do: Callable[[], None]) -> None:
        self.tasks.append(Task(self, process, name, do))

    def client(self, process: Process, prefix: str) -> MemoryObjects:
        return self.setting.objects(self.data, prefix, Line(self, process, prefix))

    def storage(self, process: Process) -> SteppedStorage:
        cube, place = self.client(process, CUBE), self.client(process, PLACE)
        quiet = self.setting.quiet if self.setting.wait is None else self.setting.wait
        return SteppedStorage(self, cube, place, quiet=quiet, clock=process.clock, calls_at_once=1)

    # What the scheduler does, in the thread that stops.

    def run(self) -> None:
        """Run until all tasks have ended, or something is wrong; then nothing of it runs any more."""
        first = self._next()
        if first is not None:
            first.go_on()
            self._all_stopped.acquire()
        for task in self.tasks:
            task.process.dead = True
            if not task.ended:
                task.go_on()
                self._all_stopped.acquire()
        self.tasks.clear()

    def hand_over(self, task: Task) -> bool:
        """Let go on who is next, since `task` stops; tell whether that is another."""
        try:
            then = self._next()
        except Exception as error:  # it must not look like an error of the task, which may be handled
            self.wrong(f"the scheduler failed: {error!r}")
            then = None
        if then is task:
            self.running = task
            return False
        if then is None:
            self._all_stopped.release()
        else:
            then.go_on()
        return True

    def _next(self) -> Task | None:
        """Return the task that goes on, once requests have come late and time has passed; ``None`` at the end."""
        while self.problem is None:
            self.steps += 1
            if self.steps > MOST_STEPS:
                self.wrong("this does not end")
            self.tasks = [task for task in self.tasks if not task.ended]
            if dead := [task for task in self.tasks if task.process.dead]:
                return dead[0]
            if self.late:
                self.late = [late for late in self.late if late.until > self.now]
                if self.choices.chance(max((late.haste for late in self.late), default=0)):
                    self.deliver(self.choices.one_of(self.late))
                    continue
            if ready := [task for task in self.tasks if task.is_ready(self.now)]:
                return self._choose(ready)
            if not self._let_time_pass():
                break
        return None

    def _choose(self, ready: list[Task]) -> Task:
        if len(ready) > 1 and self._last in ready:
            ready.remove(self._last)
            ready.insert(0, self._last)
        self._last = ready[self.choices.pick([4.0, *[1.0] * (len(ready) - 1)])]
        return self._last

    def _let_time_pass(self) -> bool:
        waiting = [task for task in self.tasks if not task.ended]
        then = min((max(task.wake_at, task.process.paused_until) for task in waiting), default=float("inf"))
        if then == float("inf"):
            if waiting:
                self.wrong(f"{[task.name for task in waiting]} wait for ever")
            return False
        for late in [late for late in self.late if late.until <= then]:
            self.now = max(self.now, late.until)
            self.settle(late)
        self.now = then
        return True

    def settle(self, late: Late) -> None:
        """Carry a late request out, or drop it."""
        if self.choices.chance(0.5):
            self.deliver(late)
        else:
            self.late.remove(late)

    def deliver(self, late: Late) -> None:
        self.late.remove(late)
        self.delivered += 1
        self.note(late.process, late.call, "arrives late")
        try:
            self._carry_out(late.process, late.call, late.do, late=True)
            self.arrived.add(late.call.path)
        except Conflict:
            self.note(late.process, late.call, "and is refused")

    # What a request meets.

    def request(self, process: Process, call: Call, do: Callable[[], T]) -> T:
        """Send a request of `process`, which is running; return what the store answers, unless it meets a fault."""
        if process.dead:
            raise Killed
        sent = self.now
        self.running.stop(self.now)
        fate = self._fate(call)
        if fate is not Fate.ANSWERED:
            self.note(process, call, fate.value)
            self.fates[fate] += 1
        if fate is Fate.SLOW:
            process.clock.sleep(self.choices.one_of((7.0, 16.0)))
        elif fate is Fate.PAUSED_BEFORE:
            self._pause(process)
        elif fate in (Fate.HELD, Fate.KILLED_HELD):
            self._send_late(process, call, do, sent)
        if fate in (Fate.KILLED_BEFORE, Fate.KILLED_HELD):
            self._kill(process)
        if fate in (Fate.HELD, Fate.LOST):
            raise self._no_answer(process, call)
        if self.now >= sent + self.setting.quiet and call.name not in READS:
            self.note(process, call, "refused as too old")
            raise PermissionError("request is too old")
        try:
            answer = self._carry_out(process, call, do)
        except Conflict:
            self.note(process, call, "refused")
            raise
        finally:
            if fate is Fate.KILLED_AFTER:
                self._kill(process)
            if fate is Fate.PAUSED_AFTER:
                self._pause(process)
        if fate is Fate.REPEATED:
            self._send_late(process, call, do, sent)
        if fate in (Fate.REPEATED, Fate.ANSWER_LOST):
            raise self._no_answer(process, call)
        return answer

    def _fate(self, call: Call) -> Fate:
        rate = self.setting.rate / 4 if call.name in READS else self.setting.rate
        if self.faults_left > 0 and self.choices.chance(rate):
            able = [fate for fate in self.setting.fates if call.name not in READS or fate in READ_FAULTS]
            if able:
                self.faults_left -= 1
                return self.choices.one_of(able)
        return Fate.SLOW if self.setting.faults and self.choices.chance(0.01) else Fate.ANSWERED

    def _carry_out(self, process: Process, call: Call, do: Callable[[], T], late: bool = False) -> T:
        if call.name in READS:
            answer = do()
            self.monitor.read(process, call)
            return answer
        self.monitor.before(call)
        answer = do()
        if not late:
            self.note(process, call, "done")
        try:
            self.monitor.after(process, call, late)
        except Exception as error:
            self.wrong(f"what {process.name} left cannot be read: {error!r}")
        return answer

    def _send_late(self, process: Process, call: Call, do: Callable[[], object], sent: float) -> None:
        haste = self.choices.one_of((0.01, 0.2, 0.05))
        self.late.append(Late(process, call, do, sent + self.setting.quiet, haste))

    def _kill(self, process: Process) -> None:
        process.dead = True
        raise Killed

    def _pause(self, process: Process) -> None:
        process.silent_since = self.now
        process.paused_until = self.now + self.choices.one_of((LEASE * 1.25, LEASE / 2 + 1, LEASE * 3, LEASE * 10))
        self.running.stop(self.now)

    def _no_answer(self, process: Process, call: Call) -> OSError:
        if self.choices.chance(0.3):
            process.clock.sleep(LEASE / 5)
        return OSError("no answer to a read") if call.name in READS else Unclear("no answer")

    # What is seen.

    def wrong(self, problem: str) -> None:
        """Note that something is wrong, which ends the run."""
        if self.problem is None:
            self.problem = problem
            self._events.append((self.now, "WRONG", problem, "", None))

    def note(self, process: Process, call: Call | str, what: str = "") -> None:
        value = self.data.get(LOCK) if isinstance(call, Call) and call.path == LOCK else None
        self._events.append((self.now, process.name, call, what, value))

    @property
    def trace(self) -> list[str]:
        """What happened, a line for each write, fault and report; nonces and transactions are those of this run."""
        lines = []
        for now, who, call, what, value in self._events:
            shown = f" = {_shown(value)}" if value is not None else ""
            text = call if isinstance(call, str) else f"{call.name} {call.path}{shown}"
            lines.append(f"{now:8.2f} {who}: {text}: {what}")
        return lines


def _shown(value: bytes) -> str:
    body = Body.parse(bytes(value))
    return f"{body.state}{'/released' if body.released else ''} txn {body.txn[:4]} nonce {body.nonce.hex()[:4]}"


class Monitor:
    """What must hold at every change of the store, as far as it can be seen from there.

    Attributes
    ----------
    check
        Is called after each change of the cube with its keys and bytes, and returns what is wrong, or nothing.
    holder
        The process that wrote the lock last.
    takeovers
        How often another process than before wrote the lock.
    robbed
        How often that was while its holder lived and had never been paused.
    """

    def __init__(self, world: World) -> None:
        self.check: Callable[[Mapping[str, bytes]], str] = lambda data: ""
        self.holder: Process | None = None
        self.robbed = self.takeovers = 0
        self._world = world
        self._step = 0
        self._nonces: set[bytes] = set()
        self._proved: dict[Process, int] = {}
        self._seen: dict[tuple[Process, str], dict[bytes | None, int]] = {}
        self._value: bytes | None = None
        self._logged: tuple[bytes, frozenset[str], tuple[str, ...]] = b"", frozenset(), ()

    def read(self, process: Process, call: Call) -> None:
        self._step += 1
        if call.name == "list":
            for key in [key for key in self._world.data if key.startswith(call.path)]:
                self._see(process, key)
        else:
            self._see(process, call.path)

    def before(self, call: Call) -> None:
        self._step += 1
        if call.name == "delete_many":
            keys = call.path.split(" ")
            if LOCK in keys or not all(key.startswith(PLACE) for key in keys):
                self._world.wrong(f"{keys} are deleted without condition")
        self._value = self._world.data.get(call.path)

    def after(self, process: Process, call: Call, late: bool) -> None:
        old, new = self._value, self._world.data.get(call.path)
        if call.path == LOCK:
            self._lock_changed(process, old, new, late)
        elif call.path.startswith(CUBE) and old != new:
            if process is self.holder and not late:
                self._check_proof(process, call.path, old)
            if self._is_document(call.path) or (process is self.holder and not late):
                self._check_log(process, call.path)
            if problem := self.check(self._world.data):
                self._world.wrong(problem)
        if not late and call.name != "delete_many":
            self._see(process, call.path)

    def _see(self, process: Process, key: str) -> None:
        self._seen.setdefault((process, key), {}).setdefault(self._world.data.get(key), self._step)

    def _check_log(self, process: Process, key: str) -> None:
        # What is late, or comes from one who lost the lock, may not do more than this either, but to chunks that
        # no document promises.
        state = self._state()
        name = key.removeprefix(CUBE)
        keys, folders = self._counts()
        if name not in keys and not name.startswith(folders):
            self._world.wrong(f"{process.name} changes {key}, which its log does not have")
        if self._is_document(key) and state != "commit":
            self._world.wrong(f"{process.name} changes {key} while the lock says {state}")

    def _check_proof(self, process: Process, key: str, old: bytes | None) -> None:
        seen = self._seen.get((process, key), {}).get(old)
        if old is not None and (seen is None or seen >= self._proved.get(process, 0)):
            self._world.wrong(f"{process.name} changes {key} without a proof after reading it")

    def _state(self) -> str:
        value = self._world.data.get(LOCK)
        return "no lock" if value is None else Body.parse(bytes(value)).state

    def _counts(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """Return the keys, and the folders, of the log that counts now."""
        value = bytes(self._world.data.get(LOCK, b""))
        if self._logged[0] != value:
            log = Log.found(cast(Any, _Snapshot(self._world.data))) if value else None
            keys: set[str] = set()
            folders: list[str] = []
            if log is not None:
                keys.update(log.absent, log.changed)
            for redo in log.redo_groups() if log is not None else ():
                keys.update(key for key, _ in redo.staged)
                keys.update(key for key, _, _ in redo.documents)
                keys.update(redo.gone)
                folders += redo.gone_prefixes
            self._logged = value, frozenset(keys), tuple(folders)
        return self._logged[1:]

    def _is_document(self, key: str) -> bool:
        return key.endswith(("zarr.json", ".zattrs"))

    def _lock_changed(self, process: Process, old: bytes | None, new: bytes | None, late: bool) -> None:
        was = None if old is None else Body.parse(bytes(old))
        now = None if new is None else Body.parse(bytes(new))
        if now is not None and new != old:
            if now.nonce in self._nonces and not late:
                self._world.wrong("a body of the lock is written twice")
            self._nonces.add(now.nonce)
        self._check_transition(process, was, now)
        if self.holder is not process and now is not None:
            self.takeovers += was is not None
            holder = self.holder
            if was is not None and holder is not None and not was.released and was.state != "done":
                self.robbed += not holder.dead and holder.silent_since is None
        self.holder = None if now is None else process
        self._proved[process] = self._step

    def _check_transition(self, process: Process, was: Body | None, now: Body | None) -> None:
        before = "open" if was is None else was.state
        after = "gone" if now is None else now.state
        allowed = {
            "open": {"open", "hot", "done", "gone"},
            "hot": {"hot", "commit", "abort"},
            "commit": {"commit", "open", "done"},
            "abort": {"abort", "open", "done"},
            "done": {"done", "open", "gone"},
        }
        if after not in allowed[before]:
            self._world.wrong(f"{process.name} takes the lock from {before} to {after}")
        if was is None or now is None:
            return
        if was.txn and now.txn not in (was.txn, ""):
            self._world.wrong(f"{process.name} puts another transaction in place of a pending one")
        if (before, after) == ("hot", "commit") and process is not self.holder:
            self._world.wrong(f"{process.name} commits the transaction of {self.holder and self.holder.name}")
        if was.txn and not now.txn and now.settled != (was.txn, before):
            self._world.wrong(f"{process.name} says {now.settled} of a transaction in {before}")


class _Snapshot:
    """The log that counts in this moment, as `Log.found` reads it."""

    def __init__(self, data: Mapping[str, bytes]) -> None:
        self._data = data
        self._entries = Body.parse(bytes(data[LOCK])).objects

    def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        return entry if entry is None or isinstance(entry, bytes) else bytes(self._data[PLACE + entry[0]])


# Transactions on a cube of which the root document tells what a reader must find.

ROOT, SHAPE, ATTRIBUTES = "zarr.json", "x/zarr.json", "x/.zattrs"
PARTIAL, IN_PLACE, STAGED = "z/0", "y/0", "s/0"


def root_of(slices: Sequence[str]) -> bytes:
    return ("slices " + " ".join(slices)).encode()


def slices_in(root: bytes) -> list[str]:
    return root.decode().split(" ")[1:]


def cube_of(slices: Sequence[str]) -> dict[str, bytes]:
    """Return a cube of these slices."""
    chunks = {f"x/c/{i}": chunk_of(name) for i, name in enumerate(slices)}
    return {
        ROOT: root_of(slices),
        SHAPE: str(len(slices)).encode(),
        ATTRIBUTES: b"even",
        PARTIAL: rows_of(slices),
        IN_PLACE: b"in place",
        STAGED: b"staged",
        **chunks,
    }


def rows_of(slices: Sequence[str]) -> bytes:
    """Return the chunk that has a row of each slice, but for those with a small letter, which have chunks alone."""
    return " ".join(name for name in slices if name.isupper()).encode()


def chunk_of(name: str) -> bytes:
    return f"chunk of {name}".encode()


def seen_by_reader(data: Mapping[str, bytes]) -> str:
    """Return what a reader of the root document would find wrong in the cube, or nothing."""
    slices = slices_in(bytes(data[CUBE + ROOT]))
    for i, name in enumerate(slices):
        found = data.get(f"{CUBE}x/c/{i}")
        if found != chunk_of(name):
            return f"the document promises {name} in x/c/{i}, where there is {found!r}"
    rows, promised = bytes(data.get(CUBE + PARTIAL, b"")), rows_of(slices)
    if not rows.startswith(promised):
        return f"the document promises rows {promised!r}, and there are {rows!r}"
    return ""


State = tuple[tuple[str, bytes], ...]


def state_of(data: Mapping[str, bytes]) -> State:
    """Return the cube without chunks that no document promises."""
    count = len(slices_in(bytes(data[CUBE + ROOT])))
    cube = {key.removeprefix(CUBE): bytes(value) for key, value in data.items() if key.startswith(CUBE)}
    return tuple(sorted((k, v) for k, v in cube.items() if not (k.startswith("x/c/") and int(k[4:]) >= count)))


EXPECTED_ERRORS = (OSError, CommitStateUnknown)


class OwnError(Exception):
    """The user's own error, for which a transaction is rolled back."""


@dataclass
class Attempt:
    """One transaction: what it found, what it makes of that, and what was reported of it."""

    what: str
    old: State = ()
    new: State = ()
    began: int = 0
    outcome: str = "unknown"
    error: BaseException | None = None

    def carry_out(
        self, job: Job, transaction: Transaction, data: Mapping[str, bytes], number: Callable[[], int]
    ) -> None:
        """Do `job` in `transaction`, on the store `data`; `number` tells the order of all that happens."""
        try:
            with transaction as txn:
                self.began = number()
                job.do(txn, data, self)
        except CommitStateUnknown as error:
            self.error = error
        except Exception as error:
            self.outcome, self.error = "failure", error
        else:
            self.outcome = "success"

    def is_unexpected(self) -> bool:
        """Tell whether the error is none that a fault of the network or another writer may cause."""
        return not isinstance(self.error, (*EXPECTED_ERRORS, OwnError, type(None)))


@dataclass(frozen=True)
class Job:
    """What one transaction does.

    Attributes
    ----------
    append
        The slice to be appended, if any.
    planned
        Whether its keys are logged ahead.
    shrink
        Whether the last slice is taken away.
    value
        What is written in place, if anything; if it is empty, the key is deleted.
    staged
        What is written where something was deleted in the same transaction, if anything.
    attributes
        A document that is written, if any.
    fails
        Whether an exception is raised at the end.
    """

    append: str = ""
    planned: bool = True
    shrink: bool = False
    value: bytes | None = None
    staged: bytes = b""
    attributes: bytes = b""
    fails: bool = False

    def __str__(self) -> str:
        parts = [f"append {self.append}" if self.append else "", "shrink" if self.shrink else ""]
        parts += [f"in place {self.value!r}" if self.value is not None else "", f"staged {self.staged!r}"]
        parts += [f"attributes {self.attributes!r}", "fails" if self.fails else ""]
        return ", ".join(part for part in parts if part and "b''" not in part) + ("" if self.planned else ", unplanned")

    def do(self, txn: Transaction, data: Mapping[str, bytes], attempt: Attempt) -> None:
        """Do it in `txn`, noting in `attempt` what is found, by a look into the store, and what it becomes."""
        slices = slices_in(txn[ROOT])
        attempt.old = state_of(data)
        new = dict(attempt.old)

        def put(key: str, value: bytes) -> None:
            new[key] = txn[key] = value

        def delete(key: str) -> None:
            new.pop(key, None)
            with suppress(KeyError):
                del txn[key]

        if self.shrink and len(slices) > 1:
            delete(f"x/c/{len(slices) - 1}")
            slices = slices[:-1]
        elif self.append:
            chunk = f"x/c/{len(slices)}"
            slices = [*slices, self.append]
            has_row = self.append.isupper()
            if self.planned:
                txn.log_ahead([chunk], [PARTIAL] if has_row else [])
            if has_row:
                put(PARTIAL, rows_of(slices))
            put(chunk, chunk_of(self.append))
        if self.value:
            put(IN_PLACE, self.value)
        elif self.value is not None:
            delete(IN_PLACE)
        if self.staged:
            delete(STAGED)
            put(STAGED, self.staged)
        if self.attributes:
            put(ATTRIBUTES, self.attributes)
        if root_of(slices) != new[ROOT]:
            put(SHAPE, str(len(slices)).encode())
            put(ROOT, root_of(slices))
        attempt.new = tuple(sorted(new.items()))
        if self.fails:
            raise OwnError


class Run:
    """One schedule: some processes do some jobs, and then it is seen what is there.

    Parameters
    ----------
    choices, setting
        As for `World`.
    old
        The slices of the cube at the beginning.
    inline
        How many bytes of the log the lock itself holds.
    """

    def __init__(
        self, choices: Choices, setting: Setting, old: Sequence[str] = ("A",), *, inline: int = objectplace.INLINE
    ) -> None:
        self.world = World(choices, setting, cube_of(old))
        self.world.monitor.check = seen_by_reader
        self.attempts: list[Attempt] = []
        self.initial = state_of(self.world.data)
        self.had_strays = self.had_left_overs = False
        self.told_to_delete = 0
        self._inline = inline

    def writer(
        self, name: str, jobs: Sequence[Job], *, start: float = 0, tries: int = 1, timeout: float = 0, rate: float = 1
    ) -> Process:
        """Have a process do `jobs`, each up to `tries` times until it succeeds."""
        process = self.world.process(name, rate)

        def work() -> None:
            process.clock.sleep(start)
            for job in jobs:
                for _ in range(tries):
                    if self._attempt(process, job, timeout).outcome == "success":
                        break

        self.world.start(process, name, work)
        return process

    def recoverer(self, name: str, *, start: float = 0, timeout: float = 0) -> None:
        """Have a process run ``zappend rollback``."""
        process = self.world.process(name)

        def work() -> None:
            process.clock.sleep(start)
            try:
                done = rollback(self.world.storage(process), lock_timeout=timeout)
                self.world.note(process, "rollback", done.outcome)
            except EXPECTED_ERRORS as error:
                self.world.note(process, "rollback", repr(error))
            except LogDamaged as error:
                if not self._is_told_to_delete(error):
                    raise

        self.world.start(process, name, work)

    def _attempt(self, process: Process, job: Job, timeout: float) -> Attempt:
        attempt = Attempt(f"{process.name}: {job}")
        self.attempts.append(attempt)
        self.world.note(process, str(job), "begins")
        storage = self.world.storage(process)
        attempt.carry_out(job, transaction(storage, lock_timeout=timeout), self.world.data, lambda: self.world.steps)
        if attempt.is_unexpected() and not self._is_told_to_delete(attempt.error):
            self.world.wrong(f"{attempt.what}: {attempt.error!r}")
        self.world.note(process, str(job), f"{attempt.outcome} {attempt.error!r}")
        return attempt

    def finish(self) -> str:
        """Run all, then recover, append and recover again, while late requests still arrive; return what is wrong."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objectplace, "INLINE", self._inline)
            self.world.run()
            self.world.faults_left = 0
            self._after(lambda: self._fresh_rollback("fresh rollback"))
            self._after(lambda: self.writer("fresh append", [Job("Z")], tries=1 + bool(self.world.late), timeout=LONG))
            if self.attempts[-1].outcome != "success":
                self.world.wrong(f"a fresh append ends with {self.attempts[-1].error!r}")
            while self.world.late:
                self.world.settle(self.world.late[0])
            self._after(lambda: self._fresh_rollback("last rollback"), last=True)
        return self.world.problem or ""

    def _after(self, start: Callable[[], object], *, last: bool = False) -> None:
        if self.world.problem is None:
            start()
            self.world.run()
        self.had_strays |= sum(key.startswith(CUBE) for key in self.world.data) > len(state_of(self.world.data))
        if self.world.problem is None and not self.world.late:
            self._check_end(last)

    def _fresh_rollback(self, name: str) -> None:
        process = self.world.process(name)

        def work() -> None:
            try:
                done = rollback(self.world.storage(process), lock_timeout=LONG)
            except LogDamaged as error:
                if not self._is_told_to_delete(error):
                    raise
                done = rollback(self.world.storage(process), lock_timeout=LONG)
            self.world.note(process, "rollback", done.outcome)

        self.world.start(process, name, work)

    def _is_told_to_delete(self, error: BaseException | None) -> bool:
        """Do what a person does who is told that a log object may have come late, if it has."""
        late = [name for name in self.world.arrived if name.startswith(PLACE) and name[len(PLACE) :] in str(error)]
        for name in late:
            self.world.data.pop(name, None)
        self.told_to_delete += len(late)
        return isinstance(error, LogDamaged) and bool(late)

    def _check_end(self, last: bool) -> None:
        data = self.world.data
        if problem := wrong_end(self.initial, self.attempts, data):
            self.world.wrong(problem)
        if left := sorted(key for key in data if key.startswith(PLACE)):
            # What was created late is swept up by the next one; a lock that only says "done" keeps nobody waiting.
            self.had_left_overs = True
            is_done = left == [LOCK] and Body.parse(bytes(data[LOCK])).state == "done"
            if not (is_done and self.world.fates) and (last or not self.world.delivered):
                self.world.wrong(f"left over: {left}")


def wrong_end(initial: State, attempts: Iterable[Attempt], data: Mapping[str, bytes]) -> str:
    """Return what is wrong with the cube in `data` when all of `attempts` have ended, or nothing."""
    possible = {initial}
    for attempt in sorted(attempts, key=lambda attempt: attempt.began):
        if attempt.outcome == "success" and attempt.old != attempt.new:
            if attempt.old not in possible:
                return f"{attempt.what} found a state that is none: {dict(attempt.old)}"
            possible = {attempt.new}
        elif attempt.outcome == "unknown" and attempt.old in possible:
            possible.add(attempt.new)
    now = state_of(data)
    if now not in possible:
        differ = [sorted(key for key, _ in set(now) ^ set(state)) for state in possible]
        return f"the cube is none of those that it may be; keys that differ: {differ}"
    return seen_by_reader(data)


def shrink(choices: Sequence[int], fails: Callable[[Sequence[int]], bool], tries: int = 400) -> list[int]:
    """Return choices that still fail, more of which are 0."""
    best = list(choices)
    size = max(len(best) // 2, 1)
    while tries > 0:
        at = 0
        while at < len(best) and tries > 0:
            if any(best[at : at + size]):
                trial = best[:at] + [0] * len(best[at : at + size]) + best[at + size :]
                tries -= 1
                if fails(trial):
                    best = trial
            at += size
        if size == 1:
            break
        size //= 2
    while best and not best[-1]:
        best.pop()
    return best
