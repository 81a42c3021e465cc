"""What a benchmark found: a table to print, and the same for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.measure import Times


@dataclass(frozen=True)
class Goal:
    """A number that is to be `most` at most, or `least` at least."""

    what: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def reached(self) -> bool:
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def __str__(self) -> str:
        limit = f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"
        return f"{'reached' if self.reached else 'MISSED '}  {self.what}: {self.value:.4g}, to be {limit}"


@dataclass(frozen=True)
class Table:
    """Rows of a name and numbers; `times` has the seconds behind them, where there are any."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    goals: Sequence[Goal] = ()
    times: Times = field(default_factory=lambda: Times({}))

    def print(self, console: Console) -> None:
        table = RichTable(title=self.title, title_justify="left", title_style="bold")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            table.add_row(*(f"{cell:,.2f}" if isinstance(cell, float) else Text(str(cell)) for cell in row))
        console.print(table)
        for goal in self.goals:
            console.print(f"  {goal}", style=None if goal.reached else "red")
        console.print()

    def json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            "goals": [vars(goal) | {"reached": goal.reached} for goal in self.goals],
            "seconds": self.times.seconds,
            "percentiles": self.times.percentiles(),
        }


def table_of(
    title: str,
    times: Times,
    bases: Sequence[str],
    goals: Iterable[Goal] = (),
    more: dict[str, dict[str, Any]] | None = None,
) -> Table:
    """Return milliseconds of all contestants, how often they take what each of `bases` takes, and columns of `more`."""
    bases, more = [base for base in bases if base in times.seconds], more or {}
    columns = ["", "median ms", "p5", "p95", "least", *(f"times {base}" for base in bases), *more]
    rows = [
        [
            name,
            *(times.of(name, percent) * 1e3 for percent in (50, 5, 95, 0)),
            *(times.ratio(name, base) for base in bases),
            *(column.get(name, "") for column in more.values()),
        ]
        for name in times.seconds
    ]
    return Table(title, columns, rows, list(goals), times)


def ratios(times: Times, *limits: tuple[str, str, str, float]) -> list[Goal]:
    """Return a goal for each (contestant, other one, "most" or "least", how often what the other one takes)."""
    return [
        Goal(f"{name}, times {to}", times.ratio(name, to), **{limit: value})
        for name, to, limit, value in limits
        if name in times.seconds and to in times.seconds
    ]
