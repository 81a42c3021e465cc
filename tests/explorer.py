"""Every state that a small model of concurrent, faulty processes can reach.

`explore` walks a state space given by a function, breadth first, so the first bad state has a shortest trace.
`Automaton` lets a process be written down as a plain generator that yields requests and is sent their answers, and
makes of it what an explorer needs: a state that is one small number.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

__all__ = ["Automaton", "Numbers", "Program", "Result", "explore"]

State = TypeVar("State", bound=Hashable)
Value = TypeVar("Value", bound=Hashable)

Program = Callable[[], Generator[Any, Any, Any]]
"""Starts one process; its generator yields requests, and returns what the process reports."""


@dataclass
class Result:
    """What an exploration saw.

    Attributes
    ----------
    states, transitions, ends
        How many there are; an end is a state with no successor.
    bad
        What is wrong in the first bad state, empty if there is none: the walk stops there.
    trace
        The labels of a shortest way to it.
    outcomes, unused
        For a model to note what its processes reported, and how many of its faults never came.
    """

    states: int = 0
    transitions: int = 0
    ends: int = 0
    bad: str = ""
    trace: list[str] = field(default_factory=list)
    outcomes: set[str] = field(default_factory=set)
    unused: int = 0

    def __str__(self) -> str:
        found = f"bad: {self.bad}" if self.bad else "0 bad"
        return f"{self.states} states, {self.transitions} transitions, {self.ends} ends, {found}"

    def story(self) -> str:
        """Return what is wrong, and how it came to that, for people."""
        return "\n".join([self.bad, *(f"{number:3} {label}" for number, label in enumerate(self.trace, 1))])


def explore(
    start: State,
    successors: Callable[[State], Iterable[tuple[str, State]]],
    invariant: Callable[[State], str],
    at_end: Callable[[State], str] = lambda _: "",
) -> Result:
    """Visit every state that can be reached from `start`, up to the first bad one.

    Parameters
    ----------
    start
        A frozen, hashable value.
    successors
        Returns each step that can be taken in a state: its label, and the state after it.
    invariant, at_end
        Tell what is wrong in any state, and in one without successors; empty if nothing is.
    """
    result = Result()
    before: dict[State, State | None] = {start: None}
    level = [start]
    while level:
        following = []
        for state in level:
            result.bad = invariant(state)
            steps = 0
            if not result.bad:
                for _, after in successors(state):
                    steps += 1
                    if after not in before:
                        before[after] = state
                        following.append(after)
                if not steps:
                    result.ends += 1
                    result.bad = at_end(state)
            result.transitions += steps
            if result.bad:
                result.states = len(before)
                result.trace = _trace(state, before, successors)
                return result
        level = following
    result.states = len(before)
    return result


def _trace(
    state: State, before: dict[State, State | None], successors: Callable[[State], Iterable[tuple[str, State]]]
) -> list[str]:
    # Labels are not kept for each state, as they would double what is to be held in memory.
    labels: list[str] = []
    while (previous := before[state]) is not None:
        labels.append(next(label for label, after in successors(previous) if after == state))
        state = previous
    return labels[::-1]


class Numbers(Generic[Value]):
    """Gives equal values the same small number, by which they are quickly compared and hashed."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self._numbers: dict[Value, int] = {}

    def of(self, value: Value) -> int:
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class Automaton:
    """Programs, written as generators, as nodes of a graph: a node is a number, an answer leads to the next node.

    A generator cannot be copied, so it is run again from its start for each new pair of node and answer, once. Two
    runs that stand at the same place with the same variables are the same node. Therefore a program must keep all it
    knows in variables with hashable values: it must not yield inside an expression that has already computed
    something else, nor inside a loop over equal items.

    Attributes
    ----------
    requests
        What the process at each node asks for; ``None`` if it has ended.
    results
        What it returned, where it has ended.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.results: list[Any] = []
        self._history: list[tuple[Program, tuple[Any, ...]]] = []
        self._edges: dict[tuple[int, Any], int] = {}
        self._nodes: dict[Hashable, int] = {}

    def start(self, program: Program) -> int:
        """Return the first node of `program`."""
        return self._run(program, ())

    def after(self, node: int, answer: Any) -> int:
        """Return the node to which `answer` leads."""
        edge = node, answer
        if edge not in self._edges:
            program, answers = self._history[node]
            self._edges[edge] = self._run(program, (*answers, answer))
        return self._edges[edge]

    def _run(self, program: Program, answers: tuple[Any, ...]) -> int:
        running = program()
        request, result, where = None, None, None
        try:
            request = next(running)
            for answer in answers:
                request = running.send(answer)
            where = _where(running)
        except StopIteration as stop:
            request, result = None, stop.value
        node = self._nodes.setdefault((where, result), len(self.requests))
        if node == len(self.requests):
            self.requests.append(request)
            self.results.append(result)
            self._history.append((program, answers))
        assert self.requests[node] == request, f"hidden state: {self.requests[node]} and {request} at one place"
        return node


def _where(running: Any) -> Hashable:
    """Return where a generator, with those that it delegates to, stands, and its variables."""
    frames = []
    while running is not None:
        frame = running.gi_frame
        frames.append((running.gi_code, frame.f_lasti, tuple(sorted(frame.f_locals.items()))))
        running = running.gi_yieldfrom
    return tuple(frames)
