"""Small models of the transaction protocol, explored to their end: no bad state; and each rule left out gives one.

The protocol itself is in `model_objects`, `model_files` and `model_lock`, as code to be read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import model_files as files
import model_lock as lock
import model_objects as objects
import pytest
from explorer import Automaton, Result, explore


def sound(cast: object, result: Result) -> None:
    """Check that there is no bad state, and that every fault came."""
    print(f"{cast}: {result}")
    assert not result.bad, f"{cast}: {result.story()}"
    assert result.unused == 0
    assert result.states > 100


def found(mutation: str, cast: object, result: Result) -> None:
    print(f"{mutation} ({cast}): {len(result.trace)} steps to: {result.bad}; {result.states} states")
    assert result.bad, f"not found in {result}: {mutation}"
    assert result.trace


# Object stores.

A_B = ("a", "")
QUICK_OBJECTS = [
    objects.Cast(A_B, crashes=1, breaks=1, faults=1, errors=1),
    objects.Cast(A_B, objects.IN_PLACE, crashes=1, breaks=1, faults=1, errors=1),
    objects.Cast(A_B, objects.DOCUMENT, crashes=1, breaks=1, faults=1),
    objects.Cast(A_B, objects.DELETION, crashes=1, breaks=1, faults=1),
    objects.Cast(A_B, stray="z", crashes=1, breaks=1, faults=1),
    objects.Cast(("a", "a"), breaks=1, faults=1),
    objects.Cast(("a", "", "c"), breaks=1),
]
LONG_OBJECTS = [
    objects.Cast(("a", "", "c"), crashes=1, breaks=1),
    objects.Cast(A_B, crashes=1, breaks=1, faults=2, errors=1),
    objects.Cast(A_B, objects.IN_PLACE, breaks=1, faults=2, errors=1),
    objects.Cast(A_B, objects.DELETION, breaks=1, faults=2, errors=1),
    objects.Cast(A_B, objects.DOCUMENT, breaks=1, faults=2),
    objects.Cast(("a", "a"), crashes=1, breaks=1, faults=1, errors=1),
    objects.Cast(("a", "c"), objects.IN_PLACE, breaks=1, faults=1, errors=1),
    objects.Cast(("a", "a"), objects.DELETION, crashes=1, breaks=1, faults=1, errors=1),
    objects.Cast(("a", "", "a"), crashes=1, breaks=2),
    objects.Cast(("a", "", ""), crashes=1, breaks=1, faults=1),
]
OBJECT_MUTATIONS = [
    ("decision is an object of its own", objects.Cast(A_B, breaks=1)),
    ("decision is deleted before the undo log", objects.Cast(A_B, crashes=1)),
    ("names of parts are used again", objects.Cast(("a", "c"), faults=1)),
    ("lock body has no nonce", objects.Cast(A_B, breaks=1, faults=1)),
    ("an unanswered create is read back and used", objects.Cast(A_B, breaks=1, faults=1)),
    ("no proof between read and write", objects.Cast(("a", "c"), breaks=1)),
    ("chunks are put without condition", objects.Cast(A_B, faults=1)),
    ("lock is deleted without condition", objects.Cast(A_B, objects.IN_PLACE, faults=1, breaks=1)),
    ("take over by delete and create", objects.Cast(A_B, crashes=1)),
    ("lost commit is taken for an abort", objects.Cast(A_B, faults=1)),
    ("no quiet time after a lost undo request", objects.Cast(A_B, faults=1, errors=1)),
    ("no quiet time after a lost document", objects.Cast(A_B, objects.DOCUMENT, faults=1)),
    ("no quiet time after a lost deletion", objects.Cast(A_B, objects.DELETION, faults=1)),
    ("deletions before the commit", objects.Cast(A_B, objects.DELETION)),
    ("no quiet time before a takeover of hot", objects.Cast(A_B, objects.IN_PLACE, faults=1)),
    ("no quiet time before a takeover of abort", objects.Cast(A_B, faults=1, errors=1)),
    ("no quiet time before a takeover of commit", objects.Cast(A_B, objects.DELETION, faults=1)),
    ("a change in place asks for no quiet time", objects.Cast(A_B, objects.IN_PLACE, breaks=1)),
    ("own abort does not wait for lost changes in place", objects.Cast(A_B, objects.IN_PLACE, faults=1, errors=1)),
    ("commit does not wait for lost changes in place", objects.Cast(A_B, objects.IN_PLACE, faults=1)),
    ("own clock is not looked at before a write", objects.Cast(A_B, objects.IN_PLACE, breaks=1, faults=1)),
    ("a stray is overwritten without asking for quiet time", objects.Cast(A_B, stray="z", faults=1)),
    ("parts are collected without a proof", objects.Cast(("a", "c"), breaks=1)),
    ("chunks before the undo log counts", objects.Cast(A_B)),
    ("documents before the commit", objects.Cast(A_B)),
    ("commit is undone", objects.Cast(A_B)),
]


@pytest.mark.parametrize("cast", QUICK_OBJECTS, ids=str)
def test_object_store(cast: objects.Cast) -> None:
    result = objects.check(cast)
    sound(cast, result)
    assert {objects.OK, objects.UNKNOWN} <= result.outcomes
    assert (objects.THERE in result.outcomes) == (cast.rows == ("a", "a"))
    assert (objects.FAILED in result.outcomes) == bool(cast.errors or cast.breaks)


@pytest.mark.campaign
@pytest.mark.parametrize("cast", LONG_OBJECTS, ids=str)
def test_object_store_with_more_faults(cast: objects.Cast) -> None:
    sound(cast, objects.check(cast))


@pytest.mark.parametrize(("mutation", "cast"), OBJECT_MUTATIONS, ids=[name for name, _ in OBJECT_MUTATIONS])
def test_object_store_needs_every_rule(mutation: str, cast: objects.Cast) -> None:
    found(mutation, cast, objects.check(cast, mutation))


HARMLESS = [
    (
        "documents are put without condition",
        "no quiet time after a lost document",
        objects.Cast(A_B, crashes=1, breaks=1, faults=1),
    ),
    (
        "undo deletes without condition",
        "no quiet time after a lost undo request",
        objects.Cast(A_B, crashes=1, breaks=1, faults=1, errors=1),
    ),
]


@pytest.mark.parametrize(("mutation", "also", "cast"), HARMLESS, ids=[name for name, _, _ in HARMLESS])
def test_quiet_time_makes_up_for_conditions(mutation: str, also: str, cast: objects.Cast) -> None:
    sound(cast, objects.check(cast, mutation))
    found(f"{mutation}, {also}", cast, objects.check(cast, mutation, also))


def test_condition_makes_up_for_quiet_time_where_documents_never_recur() -> None:
    cast = objects.Cast(A_B, crashes=1, breaks=1, faults=1)
    sound(cast, objects.check(cast, "no quiet time after a lost document"))


def test_decision_object_stands_a_crash() -> None:
    """A decision that is an object of its own goes wrong not by crashes, but by a process that wakes up again."""
    cast = objects.Cast(A_B, crashes=1)
    sound(cast, objects.check(cast, "decision is an object of its own"))


# Local files.

QUICK_FILES = [
    files.Cast(A_B, kills=1, cuts=1, errors=1),
    files.Cast(A_B, files.CREATE, kills=1, cuts=1, errors=1),
    files.Cast(A_B, files.IN_PLACE, kills=1, cuts=1, errors=1),
    files.Cast(A_B, files.DELETION, kills=1, cuts=1, errors=1),
    files.Cast(("a", "", "c"), kills=1, cuts=2),
]
LONG_FILES = [
    files.Cast(("a", "", "c"), kind, kills=1, cuts=2, errors=1)
    for kind in (files.APPEND, files.CREATE, files.IN_PLACE, files.DELETION)
] + [
    files.Cast(("a", "", ""), files.IN_PLACE, kills=2, cuts=1),
    files.Cast(("a", "c", ""), files.DELETION, cuts=3),
]
FILE_MUTATIONS = [
    ("head is not synced before chunks", files.Cast(A_B, cuts=1)),
    ("undo part is written after the head", files.Cast(A_B, files.IN_PLACE, kills=1)),
    ("chunks are written before the head", files.Cast(A_B, kills=1)),
    ("bytes of chunks are not synced before the decision", files.Cast(A_B, cuts=1)),
    ("entries of chunks are not synced before the decision", files.Cast(A_B, cuts=1)),
    ("parent of the place is not synced", files.Cast(A_B, cuts=1)),
    ("parent of a new folder is not synced", files.Cast(A_B, cuts=1)),
    ("documents before the decision", files.Cast(A_B, kills=1)),
    ("decision before the redo part", files.Cast(A_B, kills=1)),
    ("decision is not synced before documents", files.Cast(A_B, cuts=1)),
    ("documents are not synced before deletions", files.Cast(A_B, files.DELETION, cuts=1)),
    ("deletions before the decision", files.Cast(A_B, files.DELETION)),
    ("deletions before documents", files.Cast(A_B, files.DELETION)),
    ("documents are not synced before the head goes", files.Cast(A_B, cuts=1)),
    ("head is unlinked without a sync", files.Cast(A_B, cuts=1)),
    ("decision is unlinked before the head", files.Cast(A_B, kills=1)),
    ("recovery does not sync the log that it found", files.Cast(A_B, kills=1, cuts=1)),
    ("recovery does not sync what the dead one did", files.Cast(A_B, kills=1, cuts=1)),
    ("recovery leaves temporary files", files.Cast(A_B, kills=1)),
    ("recovery leaves folders", files.Cast(A_B, kills=1)),
    ("a decision without a head is carried out", files.Cast(A_B, cuts=1)),
    ("a decision of another transaction counts", files.Cast(("a", "c"), cuts=1, errors=1)),
    ("a committed transaction is undone", files.Cast(A_B, kills=1)),
]


@pytest.mark.parametrize("cast", QUICK_FILES, ids=str)
def test_files(cast: files.Cast) -> None:
    result = files.check(cast)
    sound(cast, result)
    assert {files.OK, files.UNKNOWN} <= result.outcomes
    assert (files.FAILED in result.outcomes) == bool(cast.errors)


@pytest.mark.campaign
@pytest.mark.parametrize("cast", LONG_FILES, ids=str)
def test_files_with_more_faults(cast: files.Cast) -> None:
    sound(cast, files.check(cast))


@pytest.mark.parametrize(("mutation", "cast"), FILE_MUTATIONS, ids=[name for name, _ in FILE_MUTATIONS])
def test_files_need_every_rule(mutation: str, cast: files.Cast) -> None:
    found(mutation, cast, files.check(cast, mutation))


# The lock loop.


@pytest.mark.parametrize("cast", [lock.Cast(3, 1, 1), lock.Cast(2, 2, 1)], ids=str)
def test_lock_loop(cast: lock.Cast) -> None:
    sound(cast, lock.check(cast))


@pytest.mark.campaign
@pytest.mark.parametrize("cast", [lock.Cast(2, 3, 1), lock.Cast(4, 1, 1)], ids=str)
def test_lock_loop_with_more_processes(cast: lock.Cast) -> None:
    sound(cast, lock.check(cast))


@pytest.mark.parametrize("mutation", lock.MUTATIONS)
def test_lock_loop_needs_every_rule(mutation: str) -> None:
    cast = lock.Cast(3)
    found(mutation, cast, lock.check(cast, mutation))


# The explorer.


def test_every_mutation_is_tried() -> None:
    assert {name for name, _ in OBJECT_MUTATIONS} == set(objects.MUTATIONS)
    assert {name for name, _, _ in HARMLESS} == set(objects.HARMLESS)
    assert {name for name, _ in FILE_MUTATIONS} == set(files.MUTATIONS)


def test_explorer_counts_and_finds_the_shortest_way() -> None:
    def steps(state: tuple[int, int]) -> Iterator[tuple[str, tuple[int, int]]]:
        x, y = state
        if x < 3:
            yield "right", (x + 1, y)
        if y < 3:
            yield "up", (x, y + 1)

    result = explore((0, 0), steps, lambda state: "")
    assert (result.states, result.transitions, result.ends, result.bad) == (16, 24, 1, "")
    result = explore((0, 0), steps, lambda state: "corner" if state == (2, 1) else "")
    assert result.bad == "corner"
    assert sorted(result.trace) == ["right", "right", "up"]
    assert explore((0, 0), steps, lambda state: "", lambda state: f"ends at {state}").bad == "ends at (3, 3)"


def test_automaton_tells_places_and_variables_apart() -> None:
    def program() -> Generator[str, int, str]:
        first = yield "first"
        first = first % 2
        second = yield "second"
        return f"{first}, {second}"

    automaton = Automaton()
    start = automaton.start(program)
    odd, even = automaton.after(start, 1), automaton.after(start, 2)
    assert odd != even
    assert automaton.after(start, 3) == odd
    assert automaton.results[automaton.after(odd, 7)] == "1, 7"
    assert automaton.requests[automaton.after(odd, 7)] is None


def test_automaton_notices_hidden_state() -> None:
    numbers = iter(range(9))

    def program() -> Generator[int, int, None]:
        while True:
            yield next(numbers)

    automaton = Automaton()
    start = automaton.start(program)
    with pytest.raises(AssertionError, match="hidden state"):
        automaton.after(start, 0)
