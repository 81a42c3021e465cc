"""Expressions in attributes: a small part of Python, without anything by which it could leave the dataset.

Nothing is compiled or run. The text is parsed into a syntax tree, the tree is checked whole against an allow-list
before anything is evaluated, and then walked: each node once, since there are no loops, functions or assignments.

In an expression there are numbers, text, lists, tuples and mappings; ``ds``, the dataset; attributes, items and methods
of these as far as `members` lists them; operators, comparisons, conditions, f-strings; and the functions of
`functions.FUNCTIONS`.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from zappend.errors import UsageError, ZappendError
from zappend.expressions.functions import FUNCTIONS, call_function
from zappend.expressions.members import attribute, call_method
from zappend.expressions.operators import BINARY, COMPARISONS, UNARY, arithmetic, compare, formatted, item, truth, unary
from zappend.expressions.values import Refusal, checked, to_json

__all__ = ["Expression", "is_complete", "parse"]

PARSE_ERRORS = (SyntaxError, ValueError, MemoryError, RecursionError)

LONGEST = 2000
"""Characters of an expression."""

DEEPEST = 40
"""Nodes of the tree, one in another."""

MOST_WORK = 1_000_000
"""What all values of an expression, those between included, may count together: ten of the largest lists or texts."""

DATASET = "ds"

NODES: dict[type[ast.AST], str] = {
    ast.Lambda: "a function",
    ast.NamedExpr: "an assignment",
    ast.ListComp: "a loop",
    ast.SetComp: "a loop",
    ast.DictComp: "a loop",
    ast.GeneratorExp: "a loop",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Starred: "unpacking by *",
    ast.Set: "a set",
    ast.BitAnd: "the operator &",
    ast.BitOr: "the operator |",
    ast.BitXor: "the operator ^",
    ast.LShift: "the operator <<",
    ast.RShift: "the operator >>",
    ast.MatMult: "the operator @",
    ast.Invert: "the operator ~",
}
"""What is refused by name; what else is not in `ALLOWED` is refused, too."""

ALLOWED: tuple[type[ast.AST], ...] = (
    ast.Attribute,
    ast.BinOp,
    ast.BoolOp,
    ast.Call,
    ast.Compare,
    ast.Constant,
    ast.Dict,
    ast.FormattedValue,
    ast.IfExp,
    ast.JoinedStr,
    ast.List,
    ast.Name,
    ast.Slice,
    ast.Subscript,
    ast.Tuple,
    ast.UnaryOp,
    ast.keyword,
    ast.Load,
    ast.And,
    ast.Or,
    ast.Not,
    *BINARY,
    *UNARY,
    *COMPARISONS,
)

CONSTANTS = (type(None), bool, int, float, str, type(Ellipsis))

HINT = (
    f"an expression has numbers, text, lists, '{DATASET}' with its variables and attributes, operators, conditions, "
    f"f-strings, and the functions {', '.join(FUNCTIONS)}"
)


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes
    ----------
    source
        Its text.
    tree
        What was parsed; all of it is on the allow-list.
    """

    source: str
    tree: ast.expr

    def evaluate(self, dataset: xr.Dataset) -> Any:
        """Return its value for `dataset`, in types that JSON has.

        Raises
        ------
        UsageError
            If it asks for what is not there or not allowed, or has no value that JSON has; it names the part.
        """
        return copy_context().run(self._evaluated, dataset)  # in which what is read is counted

    def _evaluated(self, dataset: xr.Dataset) -> Any:
        with warnings.catch_warnings(), np.errstate(over="raise", divide="raise", invalid="raise"):
            warnings.simplefilter("ignore")  # what a library warns of, a value tells
            walk = _Walk(self.source, dataset)
            value = walk.value(self.tree)
            return walk.guarded(self.tree, lambda: to_json(value))


def parse(source: str) -> Expression:
    """Return the expression that `source` is.

    Raises
    ------
    UsageError
        If it is none, or has something that is not allowed, also where it would not be evaluated.
    """
    source = source.strip()
    if len(source) > LONGEST:
        raise UsageError(f"expression {source[:40]!r} …: it has {len(source)} characters, and may have {LONGEST}")
    try:
        tree = _tree(source)
    except PARSE_ERRORS as error:
        why = getattr(error, "msg", None) or str(error) or "it is nested too deeply"
        raise UsageError(f"expression {_shown(source)}: it cannot be understood: {why}") from None
    for node in _nodes(source, tree):
        _check(source, node)
    return Expression(source, tree)


def is_complete(source: str) -> bool:
    """Tell whether `source` is an expression of Python, and not the beginning of one."""
    try:
        return len(source) <= LONGEST and _tree(source.strip()) is not None
    except PARSE_ERRORS:
        return False


def _tree(source: str) -> ast.expr:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        return ast.parse(source, mode="eval").body


def _nodes(source: str, tree: ast.expr) -> Iterator[ast.AST]:
    waiting: list[tuple[ast.AST, int]] = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > DEEPEST:
            raise UsageError(f"expression {_shown(source)}: it is nested more than {DEEPEST} deep; make it simpler")
        yield node
        named = node.func if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None
        waiting.extend((child, depth + 1) for child in ast.iter_child_nodes(node) if child is not named)


def _check(source: str, node: ast.AST) -> None:
    why = None
    if type(node) not in ALLOWED:
        why = f"{NODES.get(type(node), type(node).__name__)} is not allowed"
    elif isinstance(node, ast.Constant) and type(node.value) not in CONSTANTS:
        why = f"a {type(node.value).__name__} is not allowed"
    elif isinstance(node, ast.Name) and node.id != DATASET:
        why = (
            f"{node.id!r} is a function, and can only be called" if node.id in FUNCTIONS else f"there is no {node.id!r}"
        )
    elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        why = f"{node.attr!r} is private"
    elif isinstance(node, ast.Dict) and None in node.keys:
        why = "unpacking by ** is not allowed"
    elif isinstance(node, ast.keyword) and (node.arg is None or node.arg.startswith("_")):
        why = "unpacking by ** is not allowed" if node.arg is None else f"{node.arg!r} is private"
    elif isinstance(node, ast.Call) and not isinstance(node.func, (ast.Name, ast.Attribute)):
        why = "only functions and methods are called, by their names"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in FUNCTIONS:
        why = f"there is no function {node.func.id!r}"
    if why:
        raise _error(source, node, f"{why}; {HINT}")


def _error(source: str, node: ast.AST, why: str) -> UsageError:
    part = (ast.get_source_segment(source, node) or "").strip()
    where = "" if part in ("", source) else f"{_shown(part)}: "
    return UsageError(f"expression {_shown(source)}: {where}{_one_line(why)}")


def _shown(source: str) -> str:
    line = " ".join(source.split())
    return f"'{_one_line(line if len(line) <= 120 else f'{line[:119]}…')}'"


def _one_line(message: str) -> str:
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in message)


@dataclass
class _Walk:
    """One evaluation."""

    source: str
    dataset: xr.Dataset
    left: int = MOST_WORK

    def value(self, node: ast.AST) -> Any:
        """Return the value of `node`; what is raised for it names it."""
        return self.guarded(node, lambda: self._checked(self._value(node)))

    def _checked(self, value: Any) -> Any:
        value, weight = checked(value)
        self.left -= weight
        if self.left < 0:
            raise Refusal("the expression makes too many large values")
        return value

    def guarded(self, node: ast.AST, function: Callable[[], Any]) -> Any:
        """Return what `function` gives; what it raises becomes an error that names `node`."""
        try:
            return function()
        except (ZappendError, OSError):
            raise  # of a part of it; or the target could not be read
        except Refusal as error:
            raise _error(self.source, node, str(error)) from None
        except Exception as error:
            # What values that it cannot take make numpy or xarray raise is up to them.
            line = " ".join(str(error).split())[:300]
            raise _error(self.source, node, f"{type(error).__name__}: {line}") from error

    def _value(self, node: ast.AST) -> Any:
        value = self.value
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.dataset
            case ast.List():
                return [value(one) for one in node.elts]
            case ast.Tuple():
                return tuple(value(one) for one in node.elts)
            case ast.Dict():
                return {self._key(key): value(one) for key, one in zip(node.keys, node.values, strict=True)}
            case ast.Slice():
                return slice(*(None if one is None else value(one) for one in (node.lower, node.upper, node.step)))
            case ast.Attribute():
                return attribute(value(node.value), node.attr)
            case ast.Subscript():
                return item(value(node.value), value(node.slice))
            case ast.Call():
                return self._called(node)
            case ast.BinOp():
                return arithmetic(type(node.op), value(node.left), value(node.right))
            case ast.UnaryOp(op=ast.Not()):
                return not truth(value(node.operand))
            case ast.UnaryOp():
                return unary(type(node.op), value(node.operand))
            case ast.IfExp():
                return value(node.body if truth(value(node.test)) else node.orelse)
            case ast.BoolOp():
                return self._chosen(node)
            case ast.Compare():
                return self._compared(node)
            case ast.JoinedStr():
                return "".join(str(value(one)) for one in node.values)
            case ast.FormattedValue():
                spec = "" if node.format_spec is None else value(node.format_spec)
                return formatted(value(node.value), node.conversion, spec)
        raise Refusal(f"{type(node).__name__} is not allowed")  # pragma: no cover - `_check` has refused it

    def _key(self, node: ast.expr | None) -> str:
        key = None if node is None else self.value(node)
        if type(key) is not str:
            raise Refusal("what a mapping has is named by text, as in JSON")
        return key

    def _called(self, node: ast.Call) -> Any:
        given = [self.value(one) for one in node.args]
        named = {str(one.arg): self.value(one.value) for one in node.keywords}
        if isinstance(node.func, ast.Attribute):
            return call_method(self.value(node.func.value), node.func.attr, given, named)
        assert isinstance(node.func, ast.Name)
        return call_function(node.func.id, given, named)

    def _chosen(self, node: ast.BoolOp) -> Any:
        chosen: Any = None
        for one in node.values:
            chosen = self.value(one)
            if truth(chosen) is isinstance(node.op, ast.Or):
                break
        return chosen

    def _compared(self, node: ast.Compare) -> Any:
        left, result = self.value(node.left), True
        for kind, operand in zip(node.ops, node.comparators, strict=True):
            right = self.value(operand)
            result = compare(type(kind), left, right)
            if len(node.ops) > 1 and not truth(result):
                break
            left = right
        return result
